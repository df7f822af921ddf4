"""What parity tests of video models share: originals without idle parameters, their layout, how
near is equal."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

# compiling is nearly all of these tests' time, so the compiler is asked for less
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def shaken(model, scale=0.1):
    """The torch module for evaluation, noise added to every parameter: the default affine ones are
    1 and 0, which would hide a swapped name."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def channels_last(x):
    """diffusers' [B, C, T, H, W] -> ours."""
    return x.detach().numpy().transpose(0, 2, 3, 4, 1)


def close(ours, theirs, tolerance=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
