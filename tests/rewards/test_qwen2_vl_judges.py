"""HPSv3 and VideoScore-Qwen2-VL on tiny random checkpoints, against torch."""

import json

import numpy as np
import pytest

from pav_jax.checkpoints.converters import convert
from pav_jax.errors import BadInput
from pav_jax.rewards.hpsv3 import HPSv3
from pav_jax.rewards.qwen2_vl_processor import CHAT, IMAGE, VIDEO, resize, target_size
from pav_jax.rewards.videoscore import NAMES
from pav_jax.rewards.videoscore_qwen2_vl import VideoScoreQwen2VL

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
tiny = pytest.importorskip("tests.tiny.qwen2_vl")
pil = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

PIXELS = 20 * 20
TEMPLATE = "{text_prompt}: <|Reward|>\nEND\n"
QUERY = 'Rate "{text_prompt}"\n'


def text_inputs(judge, text, token, count):
    tokenizer = judge.processor.tokenizer
    turn = CHAT.replace("{vision}", token * count).replace("{text}", text)
    ids = torch.tensor(tokenizer([turn])["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(ids.shape[1]).expand(3, 1, -1),
    }


@pytest.fixture(scope="module")
def hpsv3(tmp_path_factory):
    """(torch judge, the published file's folder, base model, reward)."""
    base, published, out = (tmp_path_factory.mktemp(name) for name in ("base", "hub", "out"))
    config = tiny.write_base(base, 3)
    config.text_config.vocab_size = config.text_config.vocab_size - 7 + 1
    judge = tiny.make_judge(config, 3, 2, (6, 4))
    tensors = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    safetensors_torch.save_file(tensors, published / "HPSv3.safetensors")
    convert(published, out, base)
    (out / "template.txt").write_text(TEMPLATE)
    return (
        judge,
        published,
        base,
        HPSv3.from_pretrained(out, out / "template.txt", 2, pixels=PIXELS),
    )


def test_hpsv3_equals_torch(hpsv3, videos, prompts):
    judge, *_, reward = hpsv3
    vision = reward.judge.model.config.vision
    images = pil.Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": PIXELS, "longest_edge": PIXELS},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    expected = []
    for video, prompt in zip(videos[:2], prompts[:2], strict=True):
        for frame in video[[0, 3]]:
            encoded = images([frame], return_tensors="pt")
            grid = encoded["image_grid_thw"]
            count = int(grid.prod()) // vision.merge_size**2
            text = TEMPLATE.replace("{text_prompt}", prompt)
            inputs = text_inputs(reward.judge, text, IMAGE, count)
            token = reward.judge.processor.tokenizer.convert_tokens_to_ids("<|Reward|>")
            read_at = (inputs["input_ids"] == token).nonzero()[:, 1:]
            with torch.no_grad():
                scores, _ = judge(
                    read_at, pixel_values=encoded["pixel_values"], image_grid_thw=grid, **inputs
                )
            expected.append(scores[0, 0, 0].item())
    ours = reward.score(videos[:2], prompts[:2])["HPSV3"]
    np.testing.assert_allclose(ours, np.reshape(expected, (2, 2)).mean(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(reward.score(videos[1:2], prompts[1:2])["HPSV3"], ours[1:])
    chosen = videos[:2, reward.frames_read(6)]
    np.testing.assert_array_equal(reward.score(chosen, prompts[:2])["HPSV3"], ours)


def test_hpsv3_invalid(hpsv3, tmp_path, videos):
    _, published, base, reward = hpsv3
    with pytest.raises(BadInput, match="--tokenizer"):
        convert(published / "HPSv3.safetensors", tmp_path / "out")
    with pytest.raises(BadInput, match="frames is 0"):
        HPSv3.from_pretrained(base, frames=0)
    with pytest.raises(BadInput, match="model.safetensors"):
        HPSv3.from_pretrained(base)
    with pytest.raises(BadInput, match="<.image_pad.>"):
        reward.score(videos[:1], [f"a {IMAGE}"])


@pytest.mark.slow
def test_videoscore_qwen2_vl_equals_torch(tmp_path, videos, prompts):
    config = tiny.write_base(tmp_path, 5)
    judge = tiny.make_judge(config, 5, len(NAMES))
    judge.rm_head = torch.nn.Linear(config.text_config.hidden_size, len(NAMES))
    tensors = tiny.published_names(judge.state_dict())
    tensors = {name.replace("rm_head", "score"): t.contiguous() for name, t in tensors.items()}
    safetensors_torch.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "query.txt").write_text(QUERY)
    reward = VideoScoreQwen2VL.from_pretrained(tmp_path, tmp_path / "query.txt", 4, PIXELS)
    vision = reward.judge.model.config.vision
    scores = reward.score(videos[:1], prompts[:1])
    # the pixels of our own processor, which tests of VideoReward compare with transformers'
    factor = vision.patch_size * vision.merge_size
    height, width = target_size(*videos.shape[2:4], factor, PIXELS, PIXELS)
    grid = [4 // vision.temporal_patch_size, height // factor, width // factor]
    inputs = text_inputs(
        reward.judge, QUERY.replace("{text_prompt}", prompts[0]), VIDEO, int(np.prod(grid))
    )
    frames = np.stack([resize(f, (height, width)) for f in videos[0, [0, 2, 3, 5]]])
    vectors = np.asarray(
        reward.judge._encode_frames(
            reward.judge._vision_params,
            frames.reshape(-1, vision.temporal_patch_size, height, width, 3),
        )
    ).reshape(-1, config.text_config.hidden_size)
    embeddings = judge.model.language_model.embed_tokens(inputs["input_ids"]).detach().clone()
    embeddings[0, inputs["input_ids"][0] == config.video_token_id] = torch.tensor(vectors)
    with torch.no_grad():
        hidden = judge.model.language_model(
            inputs_embeds=embeddings, position_ids=inputs["position_ids"], use_cache=False
        ).last_hidden_state
        expected = judge.rm_head(hidden[0, -1]).numpy()
    ours = np.array([scores[name][0] for name in NAMES])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    single = reward.score(videos[:1, :1], prompts[:1])
    assert [name for name in NAMES if np.isnan(single[name]).all()] == ["TC", "DD"]
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"video_token_id": 1}))
    with pytest.raises(BadInput, match="video_token_id"):
        VideoScoreQwen2VL.from_pretrained(tmp_path)
