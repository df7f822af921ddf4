"""The trainers of the embedded checkpoints: `python -m pav_jax.mini.training.NAME`, one for
each."""
