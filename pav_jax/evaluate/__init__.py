"""Evaluation: all systems and controls on the same prompts with the same seeds."""
