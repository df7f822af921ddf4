import json

import jax
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import aesthetic
from tests.absent import shared_file

LINEAR = "sa_0_4_vit_l_14_linear.pth"
MLP = "sac+logos+ava1-l14-linearMSE.pth"


def test_score_in_any_batch(clip_folder, videos, prompts):
    reward = aesthetic.Aesthetic.from_pretrained(clip_folder)
    together = reward.score(videos, prompts)["AES"]
    assert together.dtype == np.float32 and together.shape == (5,)
    np.testing.assert_array_equal(reward.score(videos[3:4], prompts[3:4])["AES"], together[3:4])
    np.testing.assert_array_equal(reward.score(videos[::-1], prompts)["AES"][::-1], together)
    assert np.ptp(together) > 1e-4


def test_from_pretrained_with_head(clip_folder, videos, prompts, tmp_path):
    config = aesthetic.HeadConfig("linear", 12)
    params = {
        "layer_0": {"kernel": np.zeros((12, 1), np.float32), "bias": np.array([7.5], np.float32)}
    }
    aesthetic.save_head(tmp_path, config, params)
    reward = aesthetic.Aesthetic.from_pretrained(clip_folder, head=tmp_path, frames=2)
    np.testing.assert_array_equal(reward.score(videos, prompts)["AES"], np.full(5, 7.5, np.float32))


@pytest.mark.parametrize(
    "hidden,names",
    [
        ((), ["weight", "bias"]),
        (
            (1024, 128, 64, 16),
            [f"layers.{i}.{part}" for i in (0, 2, 4, 6, 7) for part in ("weight", "bias")],
        ),
    ],
)
def test_save_head_tensor_names(hidden, names):
    config = aesthetic.HeadConfig("mlp" if hidden else "linear", 768, hidden)
    assert [row.hf for row in aesthetic.weights(config)] == names


@pytest.mark.parametrize("name,hidden", [(LINEAR, ()), (MLP, (1024, 128, 64, 16))])
def test_load_head_published(name, hidden, tmp_path):
    file = shared_file(f"aesthetic_heads/{name}")
    torch = pytest.importorskip("torch")
    tensors = torch.load(file, weights_only=True, map_location="cpu")
    config = aesthetic.HeadConfig("mlp" if hidden else "linear", 768, hidden)
    aesthetic.write_tensors(tmp_path, {k: v.float().numpy() for k, v in tensors.items()})
    (tmp_path / "config.json").write_text(json.dumps({"kind": config.kind, "hidden_dims": hidden}))
    loaded, params = aesthetic.load_head(tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 768)).astype(np.float32)
    expected = torch.from_numpy(x)
    for name in [k.removesuffix("weight") for k in tensors if k.endswith("weight")]:
        weight = tensors[f"{name}weight"].float()
        bias = tensors[f"{name}bias"].float()
        expected = torch.nn.functional.linear(expected, weight, bias)
    ours = jax.jit(aesthetic.AestheticHead(loaded).apply)({"params": params}, x)
    np.testing.assert_allclose(ours, expected[:, 0].numpy(), rtol=1e-4, atol=1e-4)


def test_from_pretrained_unsuitable_head(clip_folder, tmp_path):
    config = aesthetic.HeadConfig("linear", 13)
    params = {"layer_0": {"kernel": np.zeros((13, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    aesthetic.save_head(tmp_path, config, params)
    with pytest.raises(BadInput, match="input_dim is 13"):
        aesthetic.Aesthetic.from_pretrained(clip_folder, head=tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "cubic"}')
    with pytest.raises(BadInput, match="cubic"):
        aesthetic.load_head(tmp_path)
