"""Open-Sora 1.2: denoiser and video autoencoder; `*_hf.py` name their weights."""
