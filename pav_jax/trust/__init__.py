"""How far each reward can be trusted, and thresholds and weights that fit its scores."""
