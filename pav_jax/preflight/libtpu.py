"""Whether the TPU compiler is installed; imports neither it nor JAX."""

import importlib.util

from pav_jax.errors import BadInput


def require_libtpu() -> None:
    """Check that programs can be compiled for a TPU.

    Raises:
      BadInput: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise BadInput(
            "the TPU compiler, libtpu, is not installed; pip install 'pav-jax[tpu]'",
            source="libtpu",
        )
