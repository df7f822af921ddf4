"""The embedded default: a toy world, the trainers of its tiny checkpoints, and the gate they
pass."""
