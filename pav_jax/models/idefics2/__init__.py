"""Idefics2 with a regression head, as VideoScore has it.

`model.py` joins `vision.py`, `perceiver.py` and `mistral.py`; `hf.py` names their weights.
"""
