"""Random tiny Qwen2-VL models with a reward head, made by transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl

IMAGE = 3  # token ids
VIDEO = 4
VISION_IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO)


class Judge(qwen2_vl.Qwen2VLPreTrainedModel):
    """The published classes' shape: the whole model, and a head on the hidden vectors of tokens."""

    def __init__(self, config: Any, outputs: int = 1, hidden: tuple[int, ...] = ()):
        super().__init__(config)
        self.model = qwen2_vl.Qwen2VLModel(config)
        width = config.text_config.hidden_size
        if hidden:
            layers: list[torch.nn.Module] = []
            for before, after in zip((width, *hidden), (*hidden, outputs), strict=True):
                layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
            self.rm_head = torch.nn.Sequential(*layers[:-1])
        else:
            self.rm_head = torch.nn.Linear(width, outputs, bias=False)
        self.post_init()

    def forward(self, read_at: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(hidden))[:, None]
        return self.rm_head(hidden[rows, read_at]), hidden


def random_config(seed: int, vocab_size: int | None = None, **ids: int) -> Any:
    """A configuration with random sizes.

    Args:
      ids: of the image and video tokens; by default those of this module.
    """
    rng = np.random.default_rng(seed)
    pick = lambda *values: values[int(rng.integers(len(values)))]  # noqa: E731
    kv_heads = pick(1, 2)
    heads = kv_heads * pick(1, 2)
    sections = [int(n) for n in rng.integers(1, 4, 3)]
    head_dim = 2 * sum(sections)
    vision_heads = pick(1, 2)
    text = dict(
        vocab_size=vocab_size or int(rng.integers(30, 50)),
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=pick(10, 24),
        num_hidden_layers=pick(1, 2, 3),
        rms_norm_eps=pick(1e-5, 1e-3),
        initializer_range=0.2,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": pick(100.0, 1e6),
            "mrope_section": sections,
        },
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = dict(
        embed_dim=vision_heads * pick(4, 8),
        hidden_size=text["hidden_size"],
        num_heads=vision_heads,
        depth=pick(1, 2, 3),
        mlp_ratio=pick(2, 3),
        patch_size=pick(2, 3),
        temporal_patch_size=pick(1, 2),
        spatial_merge_size=pick(1, 2),
        hidden_act=pick("quick_gelu", "gelu"),
        initializer_range=0.2,
    )
    return qwen2_vl.Qwen2VLConfig(
        text_config=text, vision_config=vision, **(VISION_IDS | ids), tie_word_embeddings=True
    )


def make_judge(config: Any, seed: int, outputs: int = 1, hidden: tuple[int, ...] = ()) -> Judge:
    """A judge with random parameters: initial biases are 0 and scales 1, which would hide a swapped
    name."""
    torch.manual_seed(seed)
    model = Judge(config, outputs, hidden)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


# ------------------------------------------------------------------------------------------ folders

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def write_base(folder: Path, seed: int) -> Any:
    """Write a tokenizer and a Qwen2-VL of random sizes; returns its configuration.

    The tokenizer has one token per byte. The embeddings have spare rows, as the published ones.
    """
    vocabulary = {t: i for i, t in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0])
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    fast.save_pretrained(folder)
    ids = {
        "image_token_id": fast.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": fast.convert_tokens_to_ids("<|video_pad|>"),
    }
    config = random_config(seed, len(fast) + 7, **ids)
    vision = config.vision_config
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    preprocessor = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return config


def published_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of transformers 4.45, which the judges were trained with."""
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
        for name, tensor in tensors.items()
    }


MAX_PIXELS = 24 * 24
TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")


def write_videoreward(folder: Path, base: Path, seed: int, outputs: int) -> Any:
    """Write a VideoReward with a random adapter in the layout of its authors, and the base model.

    Returns:
      The PEFT model, whose `base_model.model` is a `Judge`.
    """
    import peft

    config = write_base(base, seed)
    vocab_size = config.text_config.vocab_size - 7 + len(TOKENS)
    config.text_config.vocab_size = vocab_size  # as the authors resize the embeddings
    judge = make_judge(config, seed, outputs)
    targets = [
        name
        for name, module in judge.named_modules()
        if isinstance(module, torch.nn.Linear) and "visual" not in name and name != "rm_head"
    ]
    adapter = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_rslora=seed % 2 == 1)
    model = peft.get_peft_model(judge, adapter)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    checkpoint = folder / f"checkpoint-{seed + 10}"
    checkpoint.mkdir(parents=True)
    (folder / "checkpoint-9").mkdir()
    tensors = published_names(model.state_dict())
    tensors["base_model.model.lm_head.weight"] = torch.zeros(vocab_size, 2)
    torch.save(tensors, checkpoint / "model.pth")
    fields = {
        "data_config": {"fps": 2.0, "max_frame_pixels": MAX_PIXELS, "sample_type": "uniform"},
        "model_config": {
            "output_dim": outputs,
            "use_special_tokens": True,
            "reward_token": "special",
        },
        "peft_lora_config": {"lora_r": 3, "lora_alpha": 5, "use_rslora": seed % 2 == 1},
        "inference_config": {
            f"{name}_{part}": 1.0 + i + (part == "std")
            for i, name in enumerate(("VQ", "MQ", "TA"))
            for part in ("mean", "std")
        },
    }
    (folder / "model_config.json").write_text(json.dumps(fields))
    return model.eval()
