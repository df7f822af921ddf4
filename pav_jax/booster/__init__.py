"""The booster: what training produces and users keep."""
