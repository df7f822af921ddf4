"""Our I3D against a plain torch statement of deepmind/kinetics-i3d's, on random narrow networks."""

import jax
import numpy as np
import pytest

from pav_jax.models.i3d import I3D, I3DConfig
from pav_jax.models.i3d.names import LOGITS, param_shapes, weights
from pav_jax.models.weights import params_from_hf
from tests.parity.random_params import random_tensors

torch = pytest.importorskip("torch")
F = torch.nn.functional


def same(x, window, stride, value=0.0):
    """TensorFlow's SAME: what is odd goes behind."""
    pads = []
    for size, w, s in reversed(list(zip(x.shape[2:], window, stride, strict=True))):
        total = max((-(-size // s) - 1) * s + w - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def pool(x, window, stride):
    return F.max_pool3d(same(x, window, stride, float("-inf")), window, stride)


def torch_i3d(config, tensors, videos):
    def get(name):
        return torch.tensor(np.asarray(tensors[name]))

    def unit(x, name, stride=1):
        kernel = get(f"params/{name}/Conv_0/kernel").permute(4, 3, 0, 1, 2)
        x = F.conv3d(same(x, kernel.shape[2:], (stride,) * 3), kernel, stride=stride)
        mean, var = (get(f"batch_stats/{name}/BatchNorm_0/{s}").flatten() for s in ("mean", "var"))
        return F.relu(
            F.batch_norm(x, mean, var, None, get(f"params/{name}/BatchNorm_0/bias"), eps=1e-3)
        )

    def mixed(x, name):
        return torch.cat(
            [
                unit(x, f"{name}/Branch_0/Conv3d_0a_1x1"),
                unit(unit(x, f"{name}/Branch_1/Conv3d_0a_1x1"), f"{name}/Branch_1/Conv3d_0b_3x3"),
                unit(unit(x, f"{name}/Branch_2/Conv3d_0a_1x1"), f"{name}/Branch_2/Conv3d_0b_3x3"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/Branch_3/Conv3d_0b_1x1"),
            ],
            1,
        )

    x = unit(torch.tensor(videos).permute(0, 4, 1, 2, 3), "Conv3d_1a_7x7", 2)
    x = unit(pool(x, (1, 3, 3), (1, 2, 2)), "Conv3d_2b_1x1")
    x = pool(unit(x, "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for name in "bcdef":
        x = mixed(x, f"Mixed_4{name}")
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = F.avg_pool3d(mixed(mixed(x, "Mixed_5b"), "Mixed_5c"), config.window, 1)
    kernel = get(LOGITS + "kernel").reshape(x.shape[1], config.classes)
    return (x.permute(0, 2, 3, 4, 1) @ kernel + get(LOGITS + "bias")).mean((1, 2, 3)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("frames, side", [(17, 70)])
def test_i3d_equals_torch(frames, side):
    rng = np.random.default_rng(0)
    stages = tuple(
        tuple(tuple(int(n) for n in rng.integers(2, 6, 6)) for _ in blocks)
        for blocks in I3DConfig().stages
    )
    config = I3DConfig((4, 5, 6), stages, 7, (2, 2, 2))
    shapes = param_shapes(config)
    tensors = random_tensors(weights(config), shapes, 1, positive=("/var",))
    params = params_from_hf(weights(config), tensors, "random", expected=shapes)
    videos = rng.uniform(-1, 1, (1, frames, side, side + 9, 3)).astype(np.float32)
    ours = jax.jit(I3D(config).apply)({"params": params}, videos)
    theirs = torch_i3d(config, tensors, videos)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_weights_published_sizes_and_names():
    shapes = param_shapes(I3DConfig())
    table = weights(I3DConfig())
    assert shapes["block_1_4"]["branch_1"]["conv"]["kernel"].shape == (3, 3, 3, 160, 320)
    assert shapes["logits"]["kernel"].shape == (1024, 400)
    assert "params/Mixed_4f/Branch_3/Conv3d_0b_1x1/Conv_0/kernel" in {row.hf for row in table}
    assert (
        len(table) == len({row.path for row in table}) == len(jax.tree.leaves(shapes)) == 57 * 4 + 2
    )
