"""CogVideoX: denoiser and causal video autoencoder; `*_hf.py` name their weights."""
