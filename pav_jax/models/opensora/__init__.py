"""Open-Sora 1.2: denoiser and video autoencoder."""
