"""Helpers of the parity tests of video models: originals with random parameters, comparison."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

# compilation takes nearly all of the time of these tests, so the compiler optimizes less
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def perturbed(model, scale=0.1):
    """Return the torch module for evaluation with noise added to every parameter.

    The default affine parameters are 1 and 0, which would hide a swapped name.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def channels_last(x):
    """diffusers' [B, C, T, H, W] -> ours."""
    return x.detach().numpy().transpose(0, 2, 3, 4, 1)


def close(ours, theirs, tolerance=1e-4):
    ours = np.asarray(ours)
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
