"""Our Idefics2 with a head against transformers' `Idefics2Model` and a torch head: random, tiny,
loaded and saved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2
from pav_jax.models.idefics2.vision import bucket_table, patch_mask, position_ids
from pav_jax.storage.json_files import write_json
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
idefics2 = pytest.importorskip("transformers.models.idefics2.modeling_idefics2")

SEEDS = first_fast(range(4))
IMAGE = 3
PAD = 0
SIDES = ("left", "right")


class Judge(idefics2.Idefics2PreTrainedModel):
    """The published class's shape: the whole model, and a linear head on each row's last real
    token."""

    def __init__(self, config, bias):
        super().__init__(config)
        self.model = idefics2.Idefics2Model(config)
        self.score = torch.nn.Linear(config.text_config.hidden_size, config.num_labels, bias=bias)
        self.post_init()

    def forward(self, mask, **inputs):
        out = self.model(attention_mask=mask, **inputs, use_cache=False)
        places = torch.arange(mask.shape[1]) * mask
        last = out.last_hidden_state[torch.arange(len(mask)), places.argmax(1)]
        return self.score(last), out.last_hidden_state


def random_config(seed):
    rng = np.random.default_rng(seed)
    pick = lambda *values: values[int(rng.integers(len(values)))]  # noqa: E731
    patch = pick(2, 3, 4)
    heads = pick(1, 2)
    vision = dict(
        hidden_size=heads * pick(4, 8),
        num_attention_heads=heads,
        intermediate_size=pick(9, 16),
        num_hidden_layers=pick(1, 2, 3),
        patch_size=patch,
        image_size=patch * int(rng.integers(3, 8)) + 1,
        hidden_act=pick("gelu_pytorch_tanh", "gelu"),
        layer_norm_eps=pick(1e-6, 1e-3),
    )
    kv = pick(1, 2)
    text = dict(
        model_type="mistral",
        vocab_size=int(rng.integers(30, 50)),
        hidden_size=kv * 2 * pick(4, 6),
        num_attention_heads=kv * 2,
        num_key_value_heads=kv,
        intermediate_size=pick(10, 24),
        num_hidden_layers=pick(1, 2, 3),
        rms_norm_eps=pick(1e-5, 1e-3),
        pad_token_id=PAD,
        rope_parameters={"rope_type": "default", "rope_theta": pick(100.0, 10000.0)},
        sliding_window=(4, None, 7, 4096)[seed],
    )  # texts have 15 to 22 tokens
    if seed == 2:
        text["head_dim"] = 10
    kv = pick(1, 2)
    perceiver = dict(
        hidden_size=text["hidden_size"],
        rms_norm_eps=pick(1e-4, text["rms_norm_eps"]),
        resampler_n_latents=pick(2, 3),
        resampler_depth=pick(1, 2),
        resampler_n_heads=kv * pick(1, 2),
        num_key_value_heads=kv,
        resampler_head_dim=pick(4, 6),
    )
    config = idefics2.Idefics2Config(
        text_config=text, vision_config=vision, perceiver_config=perceiver, image_token_id=IMAGE
    )
    config.num_labels = int(rng.integers(2, 6))
    return config


def make(seed):
    torch.manual_seed(seed)
    model = Judge(random_config(seed), bias=seed % 2 == 0)
    with (
        torch.no_grad()
    ):  # initial biases are 0, scales and latents 1, which would hide a swapped name
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def batch(config, seed):
    """Two rows: one has an image, one has two, all of other sizes, and not of whole patches; texts
    of other lengths."""
    rng = np.random.default_rng(seed)
    patch = config.vision_config.patch_size
    latents = config.perceiver_config.resampler_n_latents
    sizes = [
        [(5 * patch + 1, 3 * patch)],
        [(2 * patch, 6 * patch + 1), (4 * patch - 1, 4 * patch + 1)],
    ]
    pixels = np.zeros((2, 2, 5 * patch + 1, 6 * patch + 1, 3), np.float32)
    seen = np.zeros(pixels.shape[:-1], bool)
    for i, row in enumerate(sizes):
        for j, (h, w) in enumerate(row):
            pixels[i, j, :h, :w] = rng.normal(size=(h, w, 3))
            seen[i, j, :h, :w] = True
    words = lambda count: list(rng.integers(4, config.text_config.vocab_size, count))  # noqa: E731
    image = [IMAGE] * latents
    texts = [words(3) + image + words(10), words(2) + image + words(5) + image + words(9)]
    length = max(map(len, texts))
    padded = {}
    for side in SIDES:
        ids = np.full((2, length), PAD)
        mask = np.zeros((2, length), bool)
        for i, text in enumerate(texts):
            at = slice(length - len(text), length) if side == "left" else slice(len(text))
            ids[i, at] = text
            mask[i, at] = True
        padded[side] = ids, mask
    return padded, pixels, seen


def close(ours, theirs, tolerance=1e-4):
    ours = np.asarray(ours)
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def run_torch(model, padded, pixels, seen):
    outputs = {}
    with torch.no_grad():
        for side, (ids, mask) in padded.items():
            outputs[side] = [
                x.numpy()
                for x in model(
                    torch.from_numpy(mask).long(),
                    input_ids=torch.from_numpy(ids),
                    pixel_values=torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).copy()),
                    pixel_attention_mask=torch.from_numpy(seen).long(),
                )
            ]
    return outputs


@pytest.fixture(scope="module", params=SEEDS)
def pair(request, tmp_path_factory):
    theirs = make(request.param)
    folder = tmp_path_factory.mktemp("idefics2")
    theirs.save_pretrained(folder)
    config, params = load(hf, folder)
    inputs = batch(theirs.config, request.param)
    return theirs, config, params, inputs, run_torch(theirs, *inputs)


def test_idefics2_equals_transformers(pair):
    _, config, params, (padded, pixels, seen), expected = pair
    model = Idefics2(config)

    @jax.jit
    def everything(params, ids, mask, pixels, seen):
        call = lambda *args, method=None: model.apply({"params": params}, *args, method=method)  # noqa: E731
        images = call(
            pixels.reshape(-1, *pixels.shape[2:]),
            seen.reshape(-1, *seen.shape[2:]),
            method="encode_images",
        )
        return call(ids, mask, pixels, seen), call(
            ids, mask, images.reshape(2, -1, images.shape[-1]), method="hidden"
        )

    for side, (ids, mask) in padded.items():
        numbers, hidden = everything(params, ids, mask, pixels, seen)
        close(numbers, expected[side][0])
        close(np.asarray(hidden)[mask], expected[side][1][mask])
    close(expected["left"][0], expected["right"][0])  # padding has no part in a score


def test_save_loads_in_transformers(pair, tmp_path):
    theirs, config, params, inputs, expected = pair
    save(hf, tmp_path, config, params)
    again, info = Judge.from_pretrained(tmp_path, config.score_bias, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert config.score_bias == (theirs.score.bias is not None)
    for side, (numbers, hidden) in run_torch(again.eval(), *inputs).items():
        np.testing.assert_array_equal(numbers, expected[side][0])
        np.testing.assert_array_equal(hidden, expected[side][1])
    assert load(hf, tmp_path)[0] == config


@pytest.mark.parametrize("side", [1, 4, 27, 70])
def test_position_ids_equal_transformers(side):
    sizes = [(1, 70), (34, 51), (70, 3), (27, 48), (69, 70)]
    patches = np.zeros((len(sizes), 70, 70), bool)
    for mask, (h, w) in zip(patches, sizes, strict=True):
        mask[:h, :w] = True
    embeddings = idefics2.Idefics2VisionEmbeddings(
        idefics2.Idefics2VisionConfig(hidden_size=1, patch_size=1, image_size=side)
    )
    with torch.no_grad():  # patches embed to zero, so the output is the index of the position
        embeddings.patch_embedding.bias.zero_()
        embeddings.position_embedding.weight.copy_(torch.arange(side**2)[:, None])
        expected = embeddings(torch.zeros(len(sizes), 3, 70, 70), torch.from_numpy(patches))[
            :, :, 0
        ].numpy()
    np.testing.assert_array_equal(position_ids(jnp.asarray(patches), side), expected)


def test_position_ids_full_grid():
    np.testing.assert_array_equal(bucket_table(70, 70)[70], np.arange(70))


def test_patch_mask_partial_padding():
    pixels = np.zeros((1, 7, 9), bool)
    pixels[0, :5, :6] = True
    np.testing.assert_array_equal(
        patch_mask(jnp.asarray(pixels), 3), [[[True, True, False], [False, False, False]]]
    )


def test_config_from_hf_without_perceiver_epsilon():
    raw = {
        "model_type": "idefics2",
        "text_config": {"rms_norm_eps": 1e-3},
        "perceiver_config": {"resampler_depth": 2},
        "id2label": {str(i): str(i) for i in range(5)},
    }
    config = hf.config_from_hf(raw)
    assert config.perceiver.norm_epsilon == 1e-3 and config.perceiver.depth == 2
    assert (config.labels, config.sliding_window, config.text.intermediate_size) == (5, 4096, 14336)
    raw["text_config"]["sliding_window"] = None
    assert hf.config_from_hf(raw).sliding_window is None


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_type": "idefics3"}, "idefics3"),
        ({"text_config": {"model_type": "llama"}}, "mistral"),
        ({"vision_config": {"hidden_act": "sine"}}, "hidden_act"),
        ({"vision_config": {"image_size": [4, 5]}}, "square"),
        ({"perceiver_config": {"num_key_value_heads": 5}}, "num_key_value_heads"),
    ],
)
def test_config_from_hf_unsupported(change, named):
    with pytest.raises(BadInput, match=named) as error:
        hf.config_from_hf({"model_type": "idefics2"} | change)
    assert "\n" not in str(error.value)


def test_load_shape_mismatch(pair, tmp_path):
    _, config, params, *_ = pair
    save(hf, tmp_path, config, params)
    write_json(
        tmp_path / "config.json",
        hf.config_to_hf(dataclasses.replace(config, labels=config.labels + 1)),
    )
    with pytest.raises(BadInput, match=r"score\.weight"):
        load(hf, tmp_path)
