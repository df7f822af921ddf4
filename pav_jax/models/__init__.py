"""Models in Flax Linen with plain-dict parameters.

Each model has a `model.py` (or a file per part) with the mathematics, and an `hf.py` (`*_hf.py`,
`names.py`) with the fields of config.json and one table that names its weights; that of decoder
language models is `models/decoder/hf.py`. `weights.py` reads tables for loading, export, sharding.
"""
