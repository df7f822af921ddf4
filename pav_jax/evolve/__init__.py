"""Evolution: rewrites of the training prompts, found by the scores of their videos."""
