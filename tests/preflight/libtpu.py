"""The mark of tests that need the TPU compiler: libtpu, which pip install "pav-jax[tpu]" brings."""

import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'pav-jax[tpu]'",
)
