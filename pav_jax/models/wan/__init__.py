"""Wan 2.1: denoiser and causal video autoencoder; `*_hf.py` name their weights."""
