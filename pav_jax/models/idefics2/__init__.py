"""Idefics2 with a head of numbers: `model.py` joins `vision.py`, `perceiver.py` and `mistral.py`,
`hf.py` names their tensors."""
