"""Wan 2.1: the denoiser and the causal video autoencoder."""
