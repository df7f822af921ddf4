"""Preference pairs: rewrites sampled from the latest booster, compared by their scores."""
