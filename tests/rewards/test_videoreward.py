"""VideoReward against a PEFT model and transformers' image processor; its files and errors."""

import json
import shutil

import numpy as np
import pytest

from pav_jax.checkpoints.converters import convert
from pav_jax.errors import BadInput
from pav_jax.models.qwen2_vl.config import Qwen2VLConfig
from pav_jax.rewards import qwen2_vl_judge
from pav_jax.rewards.qwen2_vl_processor import (
    CHAT,
    VIDEO,
    PixelSettings,
    resize,
    sampled_frames,
    spaced_frames,
    target_size,
)
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.videoreward import NAMES, TEMPLATE, VideoReward
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
tiny = pytest.importorskip("tests.tiny.qwen2_vl")
pil = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

SHORT = "{text_prompt}: <|VQ_reward|> <|MQ_reward|> <|TA_reward|>\nEND\n"
TIMES = np.arange(6) / 3.0  # 6 frames in 2 seconds: 4 are read


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "template.txt"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="module", params=first_fast(range(3)))
def published(request, tmp_path_factory):
    """(PEFT model, folder of the authors' layout, base model, converted folder)."""
    seed = request.param
    folder, base, out = (tmp_path_factory.mktemp(name) for name in ("authors", "base", "out"))
    model = tiny.write_videoreward(folder, base, seed, 3 if seed % 2 else 1)
    convert(folder, out, base)
    return model, folder, base, out


@pytest.fixture(scope="module")
def reward(published, template):
    return VideoReward.from_pretrained(published[3], template)


def processed(reward, frames):
    """transformers' pixels of a video [T, H, W, 3], and its grid of patches."""
    vision = reward.judge.model.config.vision
    images = pil.Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.merge_size,
        temporal_patch_size=1,
        size={"shortest_edge": tiny.MAX_PIXELS, "longest_edge": tiny.MAX_PIXELS},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )(list(frames), return_tensors="np")
    t = vision.temporal_patch_size
    _, rows, columns = images["image_grid_thw"][0].tolist()
    pixels = images["pixel_values"].reshape(len(frames) // t, t, rows * columns, 3, -1)
    return pixels.transpose(0, 2, 3, 1, 4).reshape(-1, 3 * t * vision.patch_size**2), [
        len(frames) // t,
        rows,
        columns,
    ]


def torch_scores(model, reward, video, prompt):
    """The three outputs of the PEFT model, without normalization."""
    frames = video[np.linspace(0, 5, 4).round().astype(int)]
    pixels, grid = processed(reward, frames)
    tokenizer = reward.judge.processor.tokenizer
    merge = reward.judge.model.config.vision.merge_size
    text = CHAT.replace("{vision}", VIDEO * (int(np.prod(grid)) // merge**2))
    text = text.replace("{text}", SHORT.replace("{text_prompt}", prompt))
    ids = np.array(tokenizer([text])["input_ids"])
    read_at = [[ids[0].tolist().index(tokenizer.convert_tokens_to_ids(t)) for t in tiny.TOKENS]]
    with torch.no_grad():
        scores, _ = model(
            read_at=torch.tensor(read_at),
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.ones(ids.shape, dtype=torch.long),
            pixel_values_videos=torch.from_numpy(pixels),
            video_grid_thw=torch.tensor([grid]),
            position_ids=torch.arange(ids.shape[1]).expand(3, 1, -1),
        )
    scores = scores[0].numpy()
    return scores.diagonal() if scores.shape[1] == 3 else scores[:, 0]


def test_score_equals_peft(published, reward, videos, prompts):
    model, *_ = published
    ours = reward.score(videos[:2], prompts[:2], times=np.tile(TIMES, (2, 1)))
    assert tuple(ours) == NAMES and all(v.dtype == np.float32 for v in ours.values())
    expected = np.stack(
        [torch_scores(model, reward, videos[i], prompts[i]) for i in range(2)], axis=1
    )
    means, stds = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])
    expected = (expected - means[:, None]) / stds[:, None]
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3
    np.testing.assert_allclose(np.stack(list(ours.values())), expected, rtol=1e-4, atol=1e-4)


def test_score_in_any_batch(published, template, reward, videos, prompts):
    together = reward.score(videos, prompts)
    subset = reward.score(videos[2:4], prompts[2:4], refined=["x", "y"])
    several = VideoReward.from_pretrained(published[3], template, batch_size=3)
    several.use_local_devices()
    in_threes = several.score(videos, prompts)
    swapped = reward.score(videos[:2], prompts[1::-1])
    for name in NAMES:
        np.testing.assert_array_equal(subset[name], together[name][2:4])
        np.testing.assert_allclose(in_threes[name], together[name], rtol=1e-4, atol=1e-5)
    # the prompt comes after the first two tokens in the published text, before all of them here
    assert np.abs(swapped["VR_TA"] - together["VR_TA"][:2]).max() > 1e-3


def test_score_reduced_frames(reward, videos, prompts, monkeypatch):
    # limits between which a second resize keeps the size, as the published ones
    area = videos.shape[2] * videos.shape[3]
    monkeypatch.setattr(reward.judge, "max_pixels", area // 3)
    monkeypatch.setattr(reward.judge, "min_pixels", area // 8)
    reduced = np.stack([[reward.reduce_frame(frame) for frame in video] for video in videos[:1]])
    assert reduced.size < videos[:1].size
    whole = reward.score(videos[:1], prompts[:1])
    for name, scores in reward.score(reduced, prompts[:1]).items():
        np.testing.assert_array_equal(scores, whole[name])


def test_score_single_frame(reward, videos, prompts):
    scores = reward.score(videos[:1, :1], prompts[:1])
    assert np.isnan(scores["VR_MQ"]).all()
    assert np.isfinite(scores["VR_VQ"]).all() and np.isfinite(scores["VR_TA"]).all()


def test_score_mrope_positions(reward, videos, prompts, monkeypatch):
    in_sequence = reward.score(videos[:1], prompts[:1])
    monkeypatch.setattr(reward.judge, "positions", "mrope")
    by_place = reward.score(videos[:1], prompts[:1])
    assert all(abs(by_place[name] - in_sequence[name]) > 1e-4 for name in NAMES)


def test_convert_adapter_layout(published, template, tmp_path, reward, videos, prompts):
    """The adapter and the trained tensors in files of their own, the rest in the base model."""
    model, folder, base, out = published
    layout, with_weights = tmp_path / "layout", tmp_path / "base"
    checkpoint = layout / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    shutil.copy(folder / "model_config.json", layout)
    shutil.copytree(base, with_weights)
    tensors = tiny.published_names(model.state_dict())
    trained = {n: t for n, t in tensors.items() if "rm_head" in n or "embed_tokens" in n}
    torch.save(trained, checkpoint / "non_lora_state_dict.pth")
    saved = {n.replace(".default", ""): t.contiguous() for n, t in tensors.items() if "lora_" in n}
    rest = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor.contiguous()
        for name, tensor in tensors.items()
        if "lora_" not in name and name not in trained
    }
    safetensors_torch = pytest.importorskip("safetensors.torch")
    safetensors_torch.save_file(saved, checkpoint / "adapter_model.safetensors")
    safetensors_torch.save_file(rest, with_weights / "model.safetensors")
    convert(layout, tmp_path / "out", with_weights)
    again = VideoReward.from_pretrained(tmp_path / "out", template)
    for name, scores in again.score(videos[:1], prompts[:1]).items():
        np.testing.assert_array_equal(scores, reward.score(videos[:1], prompts[:1])[name])


def test_default_template(published):
    reward = VideoReward.from_pretrained(published[3])
    text = reward.texts(["a {text} <cat>"])[0]
    places = [text.index(token) for token in (*tiny.TOKENS[:2], "a {text} <cat>", tiny.TOKENS[2])]
    assert places == sorted(places)


def test_from_config(published, template, reward, videos, prompts):
    entry = {"path": str(published[3]), "template": str(template), "frames": 4}
    suite = RewardSuite.from_config(
        {
            "entries": {"motion": {}},
            "held_out": {"videoreward": entry | {"normalize": False}},
            "weights": {"DD": 1.0},
        }
    )
    scores = suite.score(videos[:2], prompts[:2], fps=3.0)
    expected = reward.score(videos[:2], prompts[:2], times=np.tile(TIMES, (2, 1)))
    np.testing.assert_allclose(
        scores["held_out:VR_TA"], expected["VR_TA"] * 4 + 3, rtol=1e-5, atol=1e-5
    )


# ------------------------------------------------------------------------------- frames and pixels


def test_target_size_equals_transformers():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(30, 1400, (300, 2)).tolist():
        for limits in ((128 * 784, 200704), (200704, 200704)):
            expected = pil.smart_resize(height, width, 28, *limits)
            assert target_size(height, width, 28, *limits) == expected
            assert max(expected) > 12 * min(expected) or (
                target_size(*expected, 28, *limits) == expected or limits[0] == limits[1]
            )
    assert target_size(720, 1280, 28, 128 * 784, 200704) == (336, 588)
    assert target_size(2, 5000, 28, 100, 2000) == (28, 28 * 79)


def test_sampled_frames_published_rule():
    rng = np.random.default_rng(0)
    for _ in range(200):
        total, rate = int(rng.integers(2, 200)), float(rng.uniform(4, 60))
        frames = sampled_frames(total, rate, 2.0)
        count = min(max(total / rate * 2.0, 4), min(768, total) // 2 * 2)
        count = round(count / 2) * 2
        assert frames.tolist() == torch.linspace(0, total - 1, count).round().long().tolist()
    assert sampled_frames(1, 8.0, 2.0).tolist() == [0]
    assert spaced_frames(3, 9).tolist() == [0, 1, 2]
    assert sampled_frames(121, 24.0, 2.0).tolist()[-1] == 120


def test_resize_equals_pillow_processor():
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (9, 12, 3)), np.ones((7, 7, 1))).astype(np.uint8)
    size = target_size(63, 84, 28, 56 * 56, 60 * 60)
    processor = pil.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 60 * 60}, do_normalize=False
    )
    pixels = processor([image], return_tensors="np")["pixel_values"]
    levels = np.bincount((pixels * 255).round().astype(int).ravel(), minlength=256)
    # transformers repeats the image for the second frame of a pair
    np.testing.assert_array_equal(
        levels, 2 * np.bincount(resize(image, size).ravel(), minlength=256)
    )


@pytest.mark.parametrize(
    "raw, named", [({"patch_size": 16}, "patch_size"), ({"do_resize": False}, "do_resize")]
)
def test_pixel_settings_unsupported(raw, named, reward):
    config: Qwen2VLConfig = reward.judge.model.config
    with pytest.raises(BadInput, match=named):
        PixelSettings.from_json(raw, config, "preprocessor_config.json")


# ---------------------------------------------------------------------------------------- bad input


def one_line(call, *named):
    with pytest.raises(BadInput) as error:
        call()
    assert "\n" not in str(error.value) and all(name in str(error.value) for name in named)


def test_from_pretrained_invalid_options(published, template, clip_folder, tmp_path):
    out = published[3]
    load = VideoReward.from_pretrained
    one_line(lambda: load(out, frames=0), "frames")
    one_line(lambda: load(out, batch_size=0), "batch_size")
    one_line(lambda: load(out, dtype="int7"), "int7")
    one_line(lambda: load(out, tmp_path / "none.txt"), "none.txt")
    (tmp_path / "bad.txt").write_text(SHORT.replace("<|MQ_reward|>", ""))
    one_line(lambda: load(out, tmp_path / "bad.txt"), "<|MQ_reward|> 0 times")
    one_line(lambda: load(tmp_path / "nowhere"), "nowhere")
    one_line(lambda: load(clip_folder), "qwen2_vl")
    one_line(lambda: load(published[1]), "pav export", "--tokenizer")
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    settings = json.loads((out / "videoreward.json").read_text())
    (broken / "videoreward.json").write_text(json.dumps(settings | {"outputs": 2}))
    one_line(lambda: load(broken, template), "outputs is 2")
    outputs = 4 - settings["outputs"]
    (broken / "videoreward.json").write_text(json.dumps(settings | {"outputs": outputs}))
    one_line(lambda: load(broken, template), f"has {settings['outputs']} outputs")


def test_score_invalid_inputs(reward, videos):
    one_line(lambda: reward.score(videos[:1, :0], ["a"]), "frame")
    one_line(lambda: reward.score(videos[:1], [f"a {VIDEO}\ncat"]), VIDEO)
    one_line(lambda: reward.score(videos[:1], ["a <|TA_reward|> cat"]), "<|TA_reward|>")


def test_convert_invalid_folders(published, tmp_path):
    _, folder, base, _ = published
    out = tmp_path / "out"
    one_line(lambda: convert(folder, out), "--tokenizer=Qwen/Qwen2-VL-2B-Instruct")
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    fields = json.loads((folder / "model_config.json").read_text())
    fields["model_config"]["reward_token"] = "mean"
    (changed / "model_config.json").write_text(json.dumps(fields))
    one_line(lambda: convert(changed, out, base), "reward_token")
    shutil.copy(folder / "model_config.json", changed)
    path = next(changed.glob("checkpoint-1*/model.pth"))
    tensors = torch.load(path)
    name = next(name for name in tensors if "lora_A" in name)
    torch.save({n: t for n, t in tensors.items() if n != name}, path)
    one_line(lambda: convert(changed, out, base), "incomplete")
    torch.save(tensors | {"base_model.model.model.extra.weight": torch.zeros(2)}, path)
    one_line(lambda: convert(changed, out, base), "model.extra.weight")


def test_read_template_default():
    text = qwen2_vl_judge.read_template(TEMPLATE, "videoreward", tiny.TOKENS)
    assert text.startswith("\n") and text.endswith("END\n")
