"""How far each reward can be trusted, and thresholds that fit the scores it gives here."""
