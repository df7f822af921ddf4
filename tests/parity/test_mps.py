"""Our MPS against the same steps written with torch, one image and one prompt at a time, on random
tiny sizes.

The towers are transformers' CLIP; what follows them is stated below on tensors with the published
names.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.mps import CrossConfig, MPSConfig, MPSModel, hf
from pav_jax.models.mps.model import condition_mask
from pav_jax.models.weights import params_from_hf, params_to_hf
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
clips = pytest.importorskip("tests.parity.test_clip")

SEEDS = first_fast(range(4))
LEFT_OUT = ("post_layernorm", "position_ids")  # CLIP's, without a part in MPS


def random_cross(seed):
    rng = np.random.default_rng(100 + seed)
    return CrossConfig(
        layers=int(rng.integers(1, 4)),
        heads=int(rng.integers(1, 4)),
        head_dim=2 * int(rng.integers(2, 6)),
        ff_width=int(rng.integers(5, 30)),
    )


@functools.cache
def checkpoint(seed):
    """(transformers' CLIP, the cross layers' sizes, all tensors under their published names)."""
    clip = clips.torch_clip(seed)
    cross = random_cross(seed)
    width = clip.config.projection_dim
    inner = cross.heads * cross.head_dim
    head = cross.head_dim
    ff = cross.ff_width
    torch.manual_seed(seed)
    matrix = lambda out, into: torch.randn(out, into) / into**0.5  # noqa: E731
    tensors = {f"model.{name}": tensor for name, tensor in clip.state_dict().items()}
    for i in range(cross.layers):
        reading = f"cross_model.layers.{i}.0.fn."
        parallel = f"cross_model.layers.{i}.1.fn."
        tensors |= {
            f"{reading}to_q.weight": matrix(inner, width),
            f"{reading}to_kv.weight": matrix(2 * head, width),
            f"{reading}to_out.weight": matrix(width, inner),
            f"{reading}ff.0.weight": matrix(2 * ff, width),
            f"{reading}ff.2.weight": matrix(width, ff),
            f"{parallel}attn_out.weight": matrix(width, inner),
            f"{parallel}fused_attn_ff_proj.weight": matrix(inner + 2 * head + 2 * ff, width),
            f"{parallel}ff_out.1.weight": matrix(width, ff),
        }
        for block in (reading, parallel):
            tensors[f"{block}norm.weight"] = 1 + 0.3 * torch.randn(width)
            tensors[f"{block}norm.bias"] = 0.1 * torch.randn(width)
    return clip, cross, tensors


# ------------------------------------------------------------------------------ the torch statement


def norm(x, weights, name):
    return torch.nn.functional.layer_norm(
        x, x.shape[-1:], weights[f"{name}norm.weight"], weights[f"{name}norm.bias"]
    )


def gated(x):
    first, second = x.tensor_split(2, -1)
    return first * torch.nn.functional.silu(second)


def turn(x):
    """Position s turns the pair (i, i + H/2) of x [S, H] by s / 10000^(2i/H), as a complex
    number."""
    length, size = x.shape
    angle = torch.outer(
        torch.arange(length).double(), 10000.0 ** (-torch.arange(0, size, 2).double() / size)
    )
    pairs = torch.complex(*x.double().tensor_split(2, -1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([pairs.real, pairs.imag], -1).float()


def heads(q, k, v, count, hidden=None, rotary=False):
    """Every head of q [S, N H] on the one head of k and v [T, H]."""
    outputs = []
    for head in q.tensor_split(count, -1):
        logits = (turn(head) @ turn(k).T if rotary else head @ k.T) / k.shape[-1] ** 0.5
        outputs.append(
            (logits if hidden is None else logits.masked_fill(hidden, -torch.inf)).softmax(-1) @ v
        )
    return torch.cat(outputs, -1)


def torch_condition_mask(seed, ids, condition_ids):
    """Return which tokens of one prompt [T] the condition [C] does not mask."""
    clip, *_ = checkpoint(seed)
    encode = lambda ids: clip.text_projection(clip.text_model(ids[None]).last_hidden_state)[0]  # noqa: E731
    text = encode(ids)
    condition = encode(condition_ids)
    best = (text @ condition.T).max(1).values
    return best / best.max() > 0.3


def torch_score(seed, ids, pixels, mask):
    """The score of one prompt [T] and one image [3, H, W]."""
    clip, cross, w = checkpoint(seed)
    prompt = clip.text_model(ids[None])
    text, end = (
        clip.text_projection(x)[0] for x in (prompt.last_hidden_state, prompt.pooler_output)
    )
    x = clip.visual_projection(clip.vision_model(pixels[None]).last_hidden_state)[0]
    inner = cross.heads * cross.head_dim
    head = cross.head_dim
    for i in range(cross.layers):
        name = f"cross_model.layers.{i}.0.fn."
        h = norm(x, w, name)
        k, v = (text @ w[f"{name}to_kv.weight"].T).tensor_split(2, -1)
        read = (
            heads(h @ w[f"{name}to_q.weight"].T, k, v, cross.heads, ~mask)
            @ w[f"{name}to_out.weight"].T
        )
        x = x + read + gated(h @ w[f"{name}ff.0.weight"].T) @ w[f"{name}ff.2.weight"].T
        name = f"cross_model.layers.{i}.1.fn."
        fused = norm(x, w, name) @ w[f"{name}fused_attn_ff_proj.weight"].T
        q, k, v, ff = fused.split([inner, head, head, 2 * cross.ff_width], -1)
        mixed = heads(q, k, v, cross.heads, rotary=True) @ w[f"{name}attn_out.weight"].T
        x = x + mixed + gated(ff) @ w[f"{name}ff_out.1.weight"].T
    return (clip.logit_scale.exp() * torch.cosine_similarity(end, x[0], dim=0)).item()


# ----------------------------------------------------------------------------------- the comparison


@functools.cache
def ours(seed):
    clip, cross, tensors = checkpoint(seed)
    config = MPSConfig(clips.hf.config_from_hf(clip.config.to_dict()), cross)
    tensors = {name: tensor.numpy() for name, tensor in tensors.items()}
    return config, params_from_hf(
        hf.weights(config), tensors, "test", expected=hf.param_shapes(config)
    )


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_mps_equals_torch(seed):
    config, params = ours(seed)
    (clip, *_) = checkpoint(seed)
    ids, pixels = clips.batch(clip, seed)
    texts = torch.from_numpy(ids)
    for condition in (clips.batch(clip, other)[0][:1, :2] for other in range(50, 80)):
        expected = [
            torch_condition_mask(seed, text, torch.from_numpy(condition[0])) for text in texts
        ]
        if not torch.stack(expected).all():
            break  # this one hides something
    else:
        pytest.fail("no condition hides a token")
    model = MPSModel(config)

    @jax.jit
    def both(params, ids, pixels, condition):
        text = lambda ids: model.apply({"params": params}, ids, method="encode_text")[0]  # noqa: E731
        return model.apply({"params": params}, ids, pixels, condition), condition_mask(
            text(ids), text(condition)[0]
        )

    scores, mask = both(params, ids, pixels, condition)
    np.testing.assert_array_equal(mask, torch.stack(expected).numpy())
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
    theirs = [torch_score(seed, *inputs) for inputs in zip(texts, images, expected, strict=True)]
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-4 * clip.logit_scale.exp().item())


def test_condition_mask_threshold():
    best = jnp.array(
        [[[1.0], [0.3], [0.31], [-2.0]], [[-1.0], [-3.0], [-1.5], [-1.2]]]
    )  # 0.3 is out
    np.testing.assert_array_equal(
        condition_mask(best, jnp.ones((1, 1))), [[1, 0, 1, 0], [1, 1, 1, 1]]
    )


def test_save_and_load(tmp_path):
    config, params = ours(1)
    (*_, tensors) = checkpoint(1)
    back = params_to_hf(hf.weights(config), params)
    assert set(back) == {name for name in tensors if not any(part in name for part in LEFT_OUT)}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name].numpy())
    save(hf, tmp_path, config, params)
    again, loaded = load(hf, tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_config_from_hf_plain_clip():
    with pytest.raises(BadInput, match="'mps' is needed"):
        hf.config_from_hf({"model_type": "clip"})
