"""CLIP: `model.py` is the mathematics, `hf.py` names the weights."""
