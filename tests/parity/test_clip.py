"""Our CLIP against transformers' on random tiny configurations, loaded and saved."""

import functools

import jax
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.clip import hf
from pav_jax.models.clip.model import CLIP
from pav_jax.storage.json_files import write_json
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SEEDS = first_fast(range(4))


def random_config(seed):
    rng = np.random.default_rng(seed)

    def tower():
        heads = int(rng.integers(1, 5))
        return dict(
            hidden_size=heads * int(rng.choice([4, 8, 12])),
            num_attention_heads=heads,
            intermediate_size=int(rng.integers(9, 40)),
            num_hidden_layers=int(rng.integers(1, 4)),
            hidden_act=str(rng.choice(["quick_gelu", "gelu"])),
            layer_norm_eps=float(rng.choice([1e-5, 1e-3])),
        )

    patch = int(rng.integers(3, 7))
    text = tower() | dict(
        vocab_size=int(rng.integers(30, 60)),
        max_position_embeddings=int(rng.integers(9, 20)),
        bos_token_id=3,
        pad_token_id=1,
    )
    text["eos_token_id"] = (
        2 if seed % 2 else text["vocab_size"] - 5
    )  # 2: the legacy rule, the largest id ends
    vision = tower() | dict(
        patch_size=patch, image_size=patch * int(rng.integers(2, 5)) + int(rng.integers(0, 2))
    )
    return transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=int(rng.integers(5, 20))
    )


@functools.cache
def torch_clip(seed):
    torch.manual_seed(seed)
    model = transformers.CLIPModel(random_config(seed))
    with torch.no_grad():  # initial biases are 0 and scales 1, which would hide a swapped name
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def batch(model, seed):
    rng = np.random.default_rng(seed)
    text = model.config.text_config
    size = model.config.vision_config.image_size
    length = int(rng.integers(5, text.max_position_embeddings + 1))
    ids = rng.integers(4, text.vocab_size - 6, (3, length))
    eos = text.vocab_size - 5
    for row, end in enumerate(rng.integers(2, length, 3)):
        ids[row, end:] = 1
        ids[row, end] = eos
    ids[0, -1] = eos  # a second end of text: the first one counts
    return ids, rng.normal(size=(3, size, size, 3)).astype(np.float32)


def close(ours, theirs, tolerance=1e-4):
    ours = np.asarray(ours)
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.fixture(scope="module", params=SEEDS)
def pair(request, tmp_path_factory):
    theirs = torch_clip(request.param)
    folder = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(folder)
    config, params = load(hf, folder)
    ids, pixels = batch(theirs, request.param)
    model = CLIP(config)

    @jax.jit
    def everything(params, ids, pixels):
        call = lambda method, *args: model.apply({"params": params}, *args, method=method)  # noqa: E731
        return dict(
            text=call("encode_text", ids),
            image=call("encode_image", pixels),
            text_tokens=call("text_tokens", ids),
            vision_tokens=call("vision_tokens", pixels),
            masked=call("text_tokens", ids, ids != 1),
            scale=model.apply({"params": params}, ids, pixels)[2],
        )

    with torch.no_grad():
        expected = theirs(
            input_ids=torch.from_numpy(ids),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2)),
        )
    return theirs, config, params, ids, everything(params, ids, pixels), expected


def test_clip_embeddings_equal_transformers(pair):
    _, _, _, _, ours, expected = pair
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    close(unit(ours["text"]), expected.text_embeds)
    close(unit(ours["image"]), expected.image_embeds)
    close(ours["scale"] * unit(ours["text"]) @ unit(ours["image"]).T, expected.logits_per_text)


def test_clip_tokens_equal_transformers(pair):
    theirs, _, _, ids, ours, expected = pair
    close(ours["text_tokens"], expected.text_model_output.last_hidden_state)
    close(ours["vision_tokens"], expected.vision_model_output.last_hidden_state)
    with torch.no_grad():
        masked = theirs.text_model(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(ids != 1).long()
        )
    close(ours["masked"], masked.last_hidden_state)


def test_save_loads_in_transformers(pair, tmp_path):
    theirs, config, params, *_ = pair
    save(hf, tmp_path, config, params)
    again, info = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for side in ("text_config", "vision_config"):
        for field in ("hidden_act", "layer_norm_eps", "num_attention_heads"):
            assert getattr(getattr(again.config, side), field) == getattr(
                getattr(theirs.config, side), field
            )
    assert again.config.text_config.eos_token_id == theirs.config.text_config.eos_token_id
    assert load(hf, tmp_path)[0] == config


def test_config_from_hf_legacy_config_dict():
    raw = {
        "text_config": {"hidden_size": 64, "hidden_act": "gelu"},
        "text_config_dict": {"hidden_size": 128},
    }
    text = hf.config_from_hf(raw).text
    theirs = transformers.CLIPConfig(**raw).text_config
    assert (
        (text.width, text.activation)
        == (theirs.hidden_size, theirs.hidden_act)
        == (128, "quick_gelu")
    )


def test_config_from_hf_unsupported():
    with pytest.raises(BadInput, match="siglip"):
        hf.config_from_hf({"model_type": "siglip"})
    with pytest.raises(BadInput, match="hidden_act"):
        hf.config_from_hf({"text_config": {"hidden_act": "sine"}})


def test_load_shape_mismatch(tmp_path):
    torch_clip(0).save_pretrained(tmp_path)
    config, _ = load(hf, tmp_path)
    raw = hf.config_to_hf(config)
    raw["projection_dim"] += 1
    write_json(tmp_path / "config.json", raw)
    with pytest.raises(BadInput, match="projection"):
        load(hf, tmp_path)
