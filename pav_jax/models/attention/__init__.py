"""Attention implementations behind one signature."""
