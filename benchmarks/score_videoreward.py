"""VideoReward with random weights, its torch original, and its FLOPs by formula, for
benchmarks/score.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pav_jax.checkpoints.qwen2_vl_judges import VIDEOREWARD_TOKENS
from pav_jax.rewards import VideoReward
from pav_jax.rewards.qwen2_vl_processor import CHAT, IMAGE, VIDEO, spaced_frames
from pav_jax.rewards.videoreward import MIN_PIXELS
from pav_jax.storage.json_files import write_json
from score_models import tower_flops, write_tokenizer

TURN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


class TorchVideoReward(qwen2_vl.Qwen2VLPreTrainedModel):
    """VideoReward's architecture: a Qwen2-VL and a linear head on three tokens."""

    def __init__(self, config: transformers.Qwen2VLConfig):
        super().__init__(config)
        self.model = qwen2_vl.Qwen2VLModel(config)
        self.rm_head = torch.nn.Linear(config.text_config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(self, token_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        return self.rm_head(hidden[torch.isin(inputs["input_ids"], token_ids)])[:, 0]


def write(folder: Path, tiny: bool) -> TorchVideoReward:
    """A model of width 512 with 8 + 8 layers, or a tiny one."""
    write_tokenizer(folder, (*TURN_TOKENS, VIDEO, IMAGE, *VIDEOREWARD_TOKENS))
    tokens = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    width, layers, heads = (32, 2, 2) if tiny else (512, 8, 8)
    half = width // heads // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    config = transformers.Qwen2VLConfig(
        text_config=dict(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=2,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=sections),
            pad_token_id=0,
        ),
        vision_config=dict(embed_dim=width, hidden_size=width, depth=layers, num_heads=heads),
        image_token_id=tokens.convert_tokens_to_ids(IMAGE),
        video_token_id=tokens.convert_tokens_to_ids(VIDEO),
    )
    judge = TorchVideoReward(config).eval()
    judge.save_pretrained(folder)
    write_json(folder / "videoreward.json", {"max_pixels": 9408} if tiny else {})
    return judge


def torch_scores(
    judge: TorchVideoReward, ours: VideoReward, frames: int, prompts: list[str]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The torch original, one video at a time."""
    vision = judge.config.vision_config
    tokenizer = ours.judge.processor.tokenizer
    token_ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(VIDEOREWARD_TOKENS)))
    pair = vision.temporal_patch_size
    limit = ours.settings.max_pixels
    images = Qwen2VLImageProcessorPil(
        temporal_patch_size=1,
        size={"shortest_edge": min(MIN_PIXELS, limit), "longest_edge": limit},
    )

    def score_one(video: np.ndarray, prompt: str) -> np.ndarray:
        chosen = list(video[spaced_frames(len(video), frames)])
        encoded = images(chosen, return_tensors="np")
        _, rows, columns = encoded["image_grid_thw"][0].tolist()
        # frames of a pair are one patch
        pixels = encoded["pixel_values"].reshape(-1, pair, rows * columns, 3, vision.patch_size**2)
        pixels = pixels.transpose(0, 2, 3, 1, 4).reshape(len(chosen) // pair * rows * columns, -1)
        grid = [len(chosen) // pair, rows, columns]
        count = int(np.prod(grid)) // vision.spatial_merge_size**2
        text = CHAT.replace("{vision}", VIDEO * count).replace("{text}", ours.texts([prompt])[0])
        ids = torch.tensor(tokenizer([text])["input_ids"])
        outputs = judge(
            token_ids,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(ids.shape[1]).expand(3, 1, -1),
            pixel_values_videos=torch.from_numpy(pixels),
            video_grid_thw=torch.tensor([grid]),
        )
        means, stds = (np.float32(values) for values in (ours.settings.means, ours.settings.stds))
        return (outputs.numpy() - means) / stds

    def score(videos: np.ndarray) -> dict[str, np.ndarray]:
        rows = [score_one(video, prompt) for video, prompt in zip(videos, prompts, strict=True)]
        return dict(zip(ours.names, np.stack(rows, axis=1), strict=True))

    return torch.inference_mode()(score)


def flops(
    config: transformers.Qwen2VLConfig, size: tuple[int, int], frames: int, tokens: int
) -> float:
    """One video.

    Args:
      size: height and width of the frames that the model reads.
      tokens: of the whole row, the frames' included, without padding.
    """
    v = config.vision_config
    t = config.text_config
    patches = size[0] * size[1] // v.patch_size**2
    merged = patches // v.spatial_merge_size**2
    wide = v.embed_dim * v.spatial_merge_size**2
    pair = tower_flops(patches, v.embed_dim, v.mlp_ratio * v.embed_dim, v.depth)
    pair += 2 * patches * 3 * v.temporal_patch_size * v.patch_size**2 * v.embed_dim
    pair += 2 * merged * wide * (wide + v.hidden_size)
    width = t.hidden_size
    kv = t.num_key_value_heads * width // t.num_attention_heads
    layer = 4 * tokens * width * (width + kv) + 6 * tokens * width * t.intermediate_size
    layer += 4 * tokens**2 * width
    return frames / v.temporal_patch_size * pair + t.num_hidden_layers * layer
