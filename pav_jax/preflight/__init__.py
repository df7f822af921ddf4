"""Compiles a configuration's programs for a TPU that is not attached (`pav check`): whether they
fit and what they would cost, without chips and without weights."""
