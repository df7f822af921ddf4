"""What all stages share: scored videos, weighted sums, constraints, rankings and rounds."""
