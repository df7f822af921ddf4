"""Qwen2-VL with a reward head, as VideoReward, HPSv3 and VideoScore-Qwen2-VL have it.

`model.py` joins `vision.py` and `text.py`; `positions.py` has the positions of text and pictures,
`config.py` the sizes, `hf.py` the names in a checkpoint.
"""
