"""Our LPIPS against a plain torch statement of richzhang/PerceptualSimilarity's, on random narrow
networks."""

import jax
import numpy as np
import pytest

from pav_jax.models.lpips import LPIPS, NETS
from pav_jax.models.lpips.model import SCALE, SHIFT, Net
from pav_jax.models.lpips.names import PREFIX, param_shapes, weights
from pav_jax.models.weights import params_from_hf
from tests.parity.random_params import random_tensors

torch = pytest.importorskip("torch")
F = torch.nn.functional


def narrow(net: Net, seed) -> Net:
    rng = np.random.default_rng(seed)
    return Net(
        tuple((int(rng.integers(2, 9)), *rest) for _, *rest in net.convs),
        net.pools,
        net.window,
        net.compared,
    )


def torch_lpips(net: Net, tensors, prefix, a, b):
    def see(x):
        x = (
            torch.tensor(x).permute(0, 3, 1, 2) - torch.tensor(SHIFT).view(1, 3, 1, 1)
        ) / torch.tensor(SCALE).view(1, 3, 1, 1)
        features = []
        for i, (_, _, stride, padding) in enumerate(net.convs):
            if i in net.pools:
                x = F.max_pool2d(x, net.window, 2)
            kernel = torch.tensor(tensors[f"{prefix}/Conv_{i}/kernel"]).permute(3, 2, 0, 1)
            x = F.relu(
                F.conv2d(
                    x, kernel, torch.tensor(tensors[f"{prefix}/Conv_{i}/bias"]), stride, padding
                )
            )
            if i in net.compared:
                features.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return features

    total = 0
    for k, (x, y) in enumerate(zip(see(a), see(b), strict=True)):
        channel = torch.tensor(tensors[f"NetLinLayer_{k}/Conv_0/kernel"]).view(1, -1, 1, 1)
        total = total + F.conv2d((x - y) ** 2, channel).mean((1, 2, 3))
    return total.numpy()


@pytest.mark.parametrize("name", list(NETS))
def test_lpips_equals_torch(name):
    net = narrow(NETS[name], 1)
    rng = np.random.default_rng(2)
    shapes = param_shapes(net)
    tensors = random_tensors(weights(net, PREFIX[name]), shapes, 3)
    params = params_from_hf(weights(net, PREFIX[name]), tensors, "random", expected=shapes)
    a, b = (rng.uniform(-1, 1, (2, 67, 90, 3)).astype(np.float32) for _ in range(2))
    distance = jax.jit(LPIPS(net).apply)
    ours = distance({"params": params}, a, b)
    np.testing.assert_allclose(ours, torch_lpips(net, tensors, PREFIX[name], a, b), rtol=2e-5)
    assert np.abs(distance({"params": params}, a, a)).max() < 1e-6


def test_weights_published_sizes():
    shapes = param_shapes(NETS["vgg16"])
    assert shapes["conv_12"]["kernel"].shape == (3, 3, 512, 512) and shapes["channels_1"].shape == (
        128,
    )
    assert param_shapes(NETS["alexnet"])["conv_0"]["kernel"].shape == (11, 11, 3, 64)
