"""Trainers of the embedded checkpoints and the quality checks of the embedded world."""
