"""What the stages share: the store of scored videos, scoring, ranking, constraints and prompt sets."""
