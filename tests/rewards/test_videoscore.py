"""VideoScore and the Idefics2 processor, the processor against transformers' own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pav_jax.checkpoints.folder import save
from pav_jax.errors import BadInput
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE, Idefics2Processor, ImageSettings
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.videoscore import NAMES, QUERY, VideoScore, read_query

LATENTS = 2
PREPROCESSOR = {
    "do_image_splitting": False,
    "size": {"shortest_edge": 12, "longest_edge": 20},
    "resample": 2,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "rescale_factor": 1 / 255,
}


def write_tokenizer(folder, added=(FENCE, IMAGE, "<end_of_utterance>")):
    """One token per byte, spaces included, as the published one has a token for a space at the
    end."""
    vocabulary = {
        t: i
        for i, t in enumerate(
            ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        )
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
    )
    fast.add_special_tokens({"additional_special_tokens": list(added)})
    fast.save_pretrained(folder)
    return fast


def write_videoscore(folder, labels=5):
    tokenizer = write_tokenizer(folder)
    config = Idefics2Config(
        text=DecoderConfig(len(tokenizer), 16, 24, 2, 4, 2, 4, pad_token_id=0),
        vision=VisionConfig(width=8, ff_width=12, layers=2, heads=2, image_size=24, patch_size=4),
        perceiver=PerceiverConfig(latents=LATENTS, depth=2, heads=2, kv_heads=1, head_dim=4),
        sliding_window=30,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        labels=labels,
    )
    ids = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(Idefics2(config).init)(
        jax.random.key(0), ids, ids == 0, jnp.zeros((1, 1, 4, 4, 3))
    )["params"]
    # a fresh model's latents are all one, and its words hardly differ
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: np.asarray(a + 0.15 * noise.normal(size=a.shape), np.float32), params
    )
    save(hf, folder, config, params)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_videoscore(tmp_path_factory.mktemp("videoscore"))


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "query.txt"
    path.write_text('Rate "{text_prompt}":\n')
    return path


@pytest.fixture(scope="module")
def reward(folder, query):
    return VideoScore.from_pretrained(folder, query)


@pytest.fixture(scope="module")
def theirs(folder):
    idefics2 = pytest.importorskip("transformers.models.idefics2")
    images = idefics2.image_processing_pil_idefics2.Idefics2ImageProcessorPil(**PREPROCESSOR)
    return idefics2.processing_idefics2.Idefics2Processor(
        images, AutoTokenizer.from_pretrained(folder), LATENTS
    )


# ---------------------------------------------------------------------------------------- processor


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_images_equal_transformers(reward, theirs):
    # longer side over the limit, then one side under the other limit, upright, unchanged, enlarged
    rows = [pictures((20, 24)), pictures((9, 30), (40, 11), (13, 15), (5, 7))]
    expected = theirs.image_processor(rows, return_tensors="np")
    pixels, mask = reward.processor.images(rows)
    assert pixels.shape == (2, 4, 20, 20, 3)
    np.testing.assert_allclose(
        pixels, expected["pixel_values"].transpose(0, 1, 3, 4, 2), rtol=0, atol=1e-3
    )
    np.testing.assert_array_equal(mask, expected["pixel_attention_mask"])


def test_target_equals_transformers(theirs):
    module = pytest.importorskip("transformers.models.idefics2.image_processing_pil_idefics2")
    settings = ImageSettings()
    size = module.SizeDict(shortest_edge=settings.shortest, longest_edge=settings.longest)
    assert settings.target(480, 720) == (480, 720)
    for height, width in np.random.default_rng(0).integers(20, 2200, (500, 2)).tolist():
        picture = np.broadcast_to(np.uint8(0), (3, height, width))
        assert settings.target(height, width) == module.get_resize_output_image_size(picture, size)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_equal_transformers(reward, theirs, side):
    texts = [f"a {IMAGE} cat", f"{IMAGE}{IMAGE}{IMAGE}sits {IMAGE}\n", f"in rows: {IMAGE} {IMAGE} "]
    images = [
        [Image.fromarray(image) for image in pictures(*[(13, 15)] * text.count(IMAGE))]
        for text in texts
    ]
    theirs.tokenizer.padding_side = side
    expected = theirs(text=texts, images=images, padding=True, return_tensors="np")
    ids, mask = reward.processor.texts(texts, side=side)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_image_settings_from_folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    settings = ImageSettings.from_folder(tmp_path)
    assert (settings.shortest, settings.longest, settings.mean) == (12, 20, (0.5, 0.4, 0.3))


@pytest.mark.parametrize(
    "raw, named",
    [
        ({"do_image_splitting": True}, "do_image_splitting"),
        ({"do_resize": False}, "do_resize"),
        ({"size": {"height": 3, "width": 3}}, "shortest_edge"),
    ],
)
def test_image_settings_unsupported(raw, named):
    with pytest.raises(BadInput, match=named):
        ImageSettings.from_json(raw, "preprocessor_config.json")


# -------------------------------------------------------------------------------------------- score


def test_score_in_any_batch(reward, videos, prompts):
    together = reward.score(videos, prompts)
    assert tuple(together) == NAMES == ("VQ", "TC", "DD", "TVA", "FC")
    assert all(
        v.shape == (5,) and v.dtype == np.float32 and np.isfinite(v).all()
        for v in together.values()
    )
    subset = reward.score(videos[2:4], prompts[2:4], refined=["x", "y"])  # a rewrite is not read
    others = reward.score(videos[::-1], prompts)
    swapped = reward.score(videos[:2], prompts[1::-1])
    for name in NAMES:
        np.testing.assert_array_equal(subset[name], together[name][2:4])
        assert np.abs(others[name] - together[name])[0] > 1e-3
        assert np.abs(swapped[name] - together[name][:2]).max() > 1e-3


def test_score_equals_model_on_padded_batch(reward, videos, prompts):
    processor = reward.processor
    ids, mask = processor.texts([reward.text(prompt, 6) for prompt in prompts])
    assert (
        not mask.all()
        and (ids == reward.model.config.image_token_id).sum(1).tolist() == [6 * LATENTS] * 5
    )
    pixels, seen = processor.images(videos)
    numbers = jax.jit(reward.model.apply)({"params": reward._params}, ids, mask, pixels, seen)
    for k, scores in enumerate(reward.score(videos, prompts).values()):
        np.testing.assert_allclose(scores, numbers[:, k], rtol=0, atol=1e-4)


def test_score_batch_size(folder, query, reward, videos, prompts):
    several = VideoScore.from_pretrained(folder, query, batch_size=3)
    alone = reward.score(videos, prompts)
    together = several.score(videos, prompts)
    several.use_local_devices()
    spread = several.score(videos[::-1], prompts[::-1])
    for name, scores in alone.items():
        np.testing.assert_allclose(together[name], scores, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(spread[name][::-1], scores, rtol=1e-5, atol=1e-6)


def test_score_single_frame(reward, videos, prompts):
    for name, scores in reward.score(videos[:2, :1], prompts[:2]).items():
        assert np.isnan(scores).all() if name in ("TC", "DD") else np.isfinite(scores).all()


def test_score_long_video(folder, query, reward, videos, prompts):
    few = VideoScore.from_pretrained(folder, query, frames=3).score(videos[:2], prompts[:2])
    for name, scores in reward.score(videos[:2, [0, 2, 4]], prompts[:2]).items():
        np.testing.assert_array_equal(few[name], scores)


@pytest.mark.slow
def test_from_pretrained_version_1_1(folder, query, videos, prompts):
    newer = VideoScore.from_pretrained(folder, query, version="1.1")
    long = np.tile(videos[:1], (1, 9, 1, 1, 1))  # 54 frames
    chosen = np.arange(0, 54, 54 / 48).astype(int)[:48]
    scores = newer.score(long, prompts[:1])
    assert (newer.frames, VideoScore.from_pretrained(folder, query).frames) == (48, 16)
    for name, value in newer.score(long[:, chosen], prompts[:1]).items():
        assert scores[name] == value and np.isfinite(value)


def test_default_query(folder, videos, prompts):
    text = read_query(QUERY)
    dimensions = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    places = [text.index(f"({i}) {name}") for i, name in enumerate(dimensions, 1)]
    assert places == sorted(places)
    reward = VideoScore.from_pretrained(folder)
    text = reward.text("a {cat}", 2)
    assert text.endswith(f"{IMAGE} {IMAGE} ") and '"a {cat}"' in text
    assert all(np.isfinite(v).all() for v in reward.score(videos[:1, :2], prompts[:1]).values())


def test_from_config(folder, query, reward, videos, prompts):
    suite = RewardSuite.from_config(
        {
            "entries": {"videoscore": {"path": str(folder), "query": str(query)}},
            "weights": {"VQ": 1.0, "DD": 0.5},
        }
    )
    scores = suite.score(videos[:2], prompts[:2])
    np.testing.assert_array_equal(scores["VQ"], reward.score(videos[:2], prompts[:2])["VQ"])
    np.testing.assert_allclose(suite.overall(scores), scores["VQ"] + 0.5 * scores["DD"], rtol=1e-6)


def test_score_bfloat16(folder, query, reward, videos, prompts):
    half = VideoScore.from_pretrained(folder, query, dtype="bfloat16").score(
        videos[:2], prompts[:2]
    )
    for name, scores in reward.score(videos[:2], prompts[:2]).items():
        np.testing.assert_allclose(half[name], scores, rtol=0, atol=0.1)


# ---------------------------------------------------------------------------------------- bad input


def one_line(call, *named):
    with pytest.raises(BadInput) as error:
        call()
    assert "\n" not in str(error.value) and all(name in str(error.value) for name in named)


def test_from_pretrained_invalid_options(folder, tmp_path):
    one_line(lambda: VideoScore.from_pretrained(folder, frames=0), "frames")
    one_line(lambda: VideoScore.from_pretrained(folder, batch_size=0), "batch_size")
    one_line(lambda: VideoScore.from_pretrained(folder, dtype="int7"), "int7")
    one_line(lambda: VideoScore.from_pretrained(folder, version="2"), "version")
    one_line(lambda: VideoScore.from_pretrained(folder, tmp_path / "none.txt"), "none.txt")
    for text in ("no place", "{text_prompt} {text_prompt}", "{text_prompt} <image>"):
        (tmp_path / "query.txt").write_text(text)
        one_line(lambda: VideoScore.from_pretrained(folder, tmp_path / "query.txt"), "query.txt")


def test_score_invalid_inputs(reward, videos):
    one_line(lambda: reward.score(videos[:1, :0], ["a"]), "frame")
    one_line(lambda: reward.score(videos[:1], [f"a {IMAGE}\ncat"]), IMAGE)


def test_from_pretrained_unusable_folder(folder, clip_folder, tmp_path):
    one_line(lambda: VideoScore.from_pretrained(tmp_path / "nowhere"), "nowhere")
    one_line(lambda: VideoScore.from_pretrained(clip_folder), "idefics2")
    one_line(
        lambda: VideoScore.from_pretrained(write_videoscore(tmp_path / "three", labels=3)),
        "3 outputs",
    )
    load = lambda token_id: Idefics2Processor.from_folder(tmp_path, LATENTS, token_id)  # noqa: E731
    one_line(lambda: load(5), "tokenizer.json")
    write_tokenizer(tmp_path, added=(FENCE,))
    one_line(lambda: load(5), IMAGE)
    token_id = write_tokenizer(tmp_path).convert_tokens_to_ids(IMAGE)
    one_line(lambda: load(5), "image_token_id")
    (tmp_path / "processor_config.json").write_text('{"image_seq_len": 64}')
    one_line(lambda: load(token_id), "image_seq_len")
