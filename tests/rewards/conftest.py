"""A tiny random CLIP folder with its tokenizer, an aesthetic head, and videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pav_jax.checkpoints.folder import load, save
from pav_jax.models.clip import hf
from pav_jax.models.clip.model import CLIP, CLIPConfig, TextConfig, VisionConfig
from pav_jax.models.mps import CrossConfig, MPSConfig, MPSModel
from pav_jax.models.mps import hf as mps_hf
from pav_jax.rewards import aesthetic

WORDS = [
    *("a", "red", "blue", "green", "ball", "box", "star", "fish"),
    *("rises", "falls", "spins", "the", "over", "sea", "cat", "dog"),
]


def write_tokenizer(folder):
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    ).save_pretrained(folder)
    return len(vocabulary)


def write_clip(folder, seed=0):
    size = write_tokenizer(folder)
    config = CLIPConfig(
        text=TextConfig(
            vocab_size=size,
            width=16,
            ff_width=32,
            layers=2,
            heads=2,
            positions=8,
            bos_id=2,
            eos_id=3,
            pad_id=0,
        ),
        vision=VisionConfig(width=16, ff_width=32, layers=2, heads=2, image_size=16, patch_size=8),
        projection_dim=12,
    )
    ids = jnp.zeros((1, 8), jnp.int32)
    pixels = jnp.zeros((1, 16, 16, 3))
    params = jax.jit(CLIP(config).init)(jax.random.key(seed), ids, pixels)["params"]
    # larger than a fresh model's, so that pictures and words make a difference
    params = jax.tree.map(lambda a: np.asarray(a) * (3 if a.ndim > 1 else 1), params)
    save(hf, folder, config, params)
    head = aesthetic.HeadConfig("mlp", 12, (6, 4))
    made = aesthetic.AestheticHead(head).init(jax.random.key(seed), jnp.zeros((1, 12)))["params"]
    aesthetic.save_head(folder / aesthetic.HEAD_FOLDER, head, jax.tree.map(np.asarray, made))
    return folder


def write_mps(folder):
    """A tiny CLIP's towers and tokenizer with random cross layers."""
    clip, towers = load(hf, write_clip(folder))
    config = MPSConfig(clip, CrossConfig(layers=2, heads=2, head_dim=4, ff_width=8))
    ids = jnp.zeros((1, 8), jnp.int32)
    pixels = jnp.zeros((1, 16, 16, 3))
    params = jax.jit(MPSModel(config).init)(jax.random.key(0), ids, pixels, ids)["params"]
    towers.pop("vision_norm")
    save(
        mps_hf, folder, config, {"clip": towers, "cross": jax.tree.map(np.asarray, params["cross"])}
    )
    return folder


@pytest.fixture(scope="session")
def make_clip():
    """The function that writes such a folder."""
    return write_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def mps_folder(tmp_path_factory):
    return write_mps(tmp_path_factory.mktemp("mps"))


@pytest.fixture(scope="session")
def condition(tmp_path_factory):
    """Words that the tiny tokenizer knows."""
    words = tmp_path_factory.mktemp("condition") / "words.txt"
    words.write_text("red\nball\nsea\n")
    return words


@pytest.fixture(scope="session")
def videos():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 5, 6, 3))
    return np.kron(coarse, np.ones((1, 1, 4, 4, 1))).astype(
        np.uint8
    )  # 5 videos, 6 frames of 20 x 24 pixels


PROMPTS = ["a red ball rises", "the blue fish", "a green star spins over the sea", "a cat", "dog"]


@pytest.fixture(scope="session")
def prompts():
    return list(PROMPTS)
