"""The fields of supervised fine-tuning, DPO and GRPO.

Defaults are the constants of arXiv 2412.15156 unless a comment says otherwise. Field names follow
TRL 1.16's SFTConfig, DPOConfig and GRPOConfig where TRL has the field. Imports nothing heavy: the
command line lists these fields before any model is built.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from pav_jax.config_fields import check_section, config_dict, from_config_dict, option
from pav_jax.errors import BadInput
from pav_jax.train.loss_checks import check_policy_loss, check_preference_loss

REMAT_POLICIES = (
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
)
SCHEDULES = ("linear", "cosine", "constant", "exponential_per_epoch")
ALL_LINEAR = "all-linear"  # language/lora.py
QUANTIZATIONS = ("int8", "int4", "nf4")  # language/quantization.py
DPO_LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "sigmoid_norm", "sft")
GRPO_LOSS_TYPES = ("grpo", "dapo", "bnpo", "dr_grpo")
REWARD_SCALES = ("group", "batch", "none")


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """The adapter, in the names of PEFT's LoraConfig."""

    r: int = option(8, "rank", minimum=1)
    lora_alpha: float = option(32.0, "the adapter's output is scaled by lora_alpha / r", above=0)
    lora_dropout: float = option(0.0, "dropout on the adapter's input", minimum=0, below=1)
    target_modules: tuple[str, ...] = option(
        (ALL_LINEAR,),
        "names of dense layers, regular expressions for their whole path, or all-linear",
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Fields that SFT, DPO and GRPO share."""

    num_train_epochs: float = option(
        1.0, "passes over the data; ignored when max_steps is set", minimum=0.0
    )
    max_steps: int | None = option(
        None, "optimizer steps; None: computed from num_train_epochs", minimum=1
    )
    batch_size: int = option(
        8, "examples (DPO: pairs) per optimizer step, over all devices and parts", minimum=1
    )
    gradient_accumulation_steps: int = option(
        1, "parts that a batch is split into, computed one after another", minimum=1
    )
    learning_rate: float = option(1e-4, "peak learning rate of AdamW", above=0)
    lr_scheduler_type: str = option("linear", "learning-rate schedule", choices=SCHEDULES)
    decay_per_epoch: float = option(
        0.85,
        "factor on the learning rate after each epoch, for exponential_per_epoch",
        above=0,
    )
    warmup_ratio: float = option(
        0.0, "fraction of all steps with linear warm-up", minimum=0.0, maximum=1.0
    )
    weight_decay: float = option(0.0, "AdamW weight decay; norms and biases are exempt", minimum=0)
    max_grad_norm: float | None = option(
        1.0, "clip gradients to this global norm; None: off", above=0
    )
    max_prompt_length: int = option(
        512, "tokens; longer prompts are truncated on the left", minimum=1
    )
    quantize: str | None = option(
        None,
        "quantize the frozen base: int8, int4 or nf4 (extra `quantize`); None: off",
        choices=QUANTIZATIONS,
    )
    full_finetuning: bool = option(False, "train all parameters, without an adapter")
    lora: LoraOptions = option(LoraOptions, "the LoRA adapter")
    loss_chunk_size: int = option(256, "positions whose logits are in memory at a time", minimum=1)
    remat: bool = option(True, "recompute each layer's activations in the backward pass")
    remat_policy: str = option(
        "nothing_saveable",
        "which activations remat saves: a name in jax.checkpoint_policies",
        choices=REMAT_POLICIES,
    )
    unroll_layers: bool = option(
        False, "unroll the loop over layers: faster for small models, slow to compile for deep ones"
    )
    logging_steps: int = option(10, "steps between progress lines", minimum=1)
    save_steps: int | None = option(
        100, "steps between checkpoints; None: only after the last step", minimum=1
    )
    save_total_limit: int = option(2, "checkpoints to keep", minimum=1)


@dataclasses.dataclass(frozen=True)
class SFTConfig(TrainingConfig):
    """Supervised fine-tuning.

    Defaults: llama-recipes' LoRA on queries and values, learning rate x 0.85 per epoch; 4 examples
    per device on 2 GPUs.
    """

    num_train_epochs: float = option(
        12.0, "passes over the data; ignored when max_steps is set", minimum=0.0
    )
    lr_scheduler_type: str = option(
        "exponential_per_epoch", "learning-rate schedule", choices=SCHEDULES
    )
    max_grad_norm: float | None = option(
        None, "clip gradients to this global norm; None: off", above=0
    )
    lora: LoraOptions = option(
        lambda: LoraOptions(lora_dropout=0.05, target_modules=("q_proj", "v_proj")),
        "the LoRA adapter",
    )
    max_length: int = option(1024, "tokens of prompt and answer together", minimum=1)
    length_buckets: tuple[int, ...] = option(
        (),
        "padded lengths, one compiled program each; empty: the longest example's length",
        minimum=1,
    )
    packing: bool = option(
        False, "pack a batch's examples into rows of max_length: same losses, less padding"
    )
    pairs: str | None = option(
        None, "pairs to train on instead of sft_pairs.jsonl: .jsonl, or .json [[prompt, refined]]"
    )


@dataclasses.dataclass(frozen=True)
class DPOConfig(TrainingConfig):
    """Direct preference optimization.

    Defaults: the published run; learning rate and schedule are those of transformers'
    TrainingArguments.
    """

    num_train_epochs: float = option(
        3.0, "passes over the data; ignored when max_steps is set", minimum=0.0
    )
    batch_size: int = option(32, "pairs per optimizer step, over all devices and parts", minimum=1)
    gradient_accumulation_steps: int = option(
        8, "parts that a batch is split into, computed one after another", minimum=1
    )
    learning_rate: float = option(5e-5, "peak learning rate of AdamW", above=0)
    warmup_ratio: float = option(
        0.1, "fraction of all steps with linear warm-up", minimum=0.0, maximum=1.0
    )
    lora: LoraOptions = option(lambda: LoraOptions(r=16, lora_alpha=16.0), "the LoRA adapter")
    max_length: int = option(1024, "tokens of prompt and answer together", minimum=1)
    length_buckets: tuple[int, ...] = option(
        (),
        "padded lengths, one compiled program each; empty: the longest example's length",
        minimum=1,
    )
    beta: float = option(0.1, "strength of the implicit KL penalty to the reference", above=0)
    loss_type: tuple[str, ...] = option(
        ("sigmoid",), "losses that are summed, see train/losses.py", choices=DPO_LOSS_TYPES
    )
    loss_weights: tuple[float, ...] | None = option(
        None, "one weight for each loss type; None: 1 each"
    )
    label_smoothing: float = option(
        0.0,
        "probability that a preference is flipped, for robust and exo_pair",
        minimum=0,
        below=0.5,
    )
    ld_alpha: float | None = option(
        None,
        "weight of tokens beyond the shorter answer's length (LD-DPO); None: 1",
        minimum=0,
        maximum=1,
    )
    precompute_ref_log_probs: bool = option(
        False, "compute the reference's log-probabilities once, before training"
    )


@dataclasses.dataclass(frozen=True)
class GRPOConfig(TrainingConfig):
    """Group relative policy optimization.

    Defaults: TRL 1.16's GRPOConfig where it has the field; batch, adapter and completion length are
    the published DPO run's. A step is one sampled batch, with `num_iterations` optimizer steps.
    """

    batch_size: int = option(
        32, "completions per step: batch_size / num_generations prompts", minimum=1
    )
    gradient_accumulation_steps: int = option(
        8, "parts that a batch is split into, computed one after another", minimum=1
    )
    # TRL's 1e-6 is for all parameters; an adapter takes about ten times that (Schulman et al. 2025,
    # "LoRA without regret")
    learning_rate: float = option(1e-5, "peak learning rate of AdamW", above=0)
    lora: LoraOptions = option(lambda: LoraOptions(r=16, lora_alpha=16.0), "the LoRA adapter")
    # a step makes videos, so each is worth a line
    logging_steps: int = option(1, "steps between progress lines", minimum=1)
    # a restart samples the steps since the checkpoint again, but reuses their videos
    save_steps: int | None = option(
        10, "steps between checkpoints; None: only after the last step", minimum=1
    )
    start: str = option("sft", "booster to start from: sft, dpo_1, ..., base (untuned), a folder")
    prompts: str = option("mini:prompts/prefer.txt", "file of training prompts")
    max_prompts: int | None = option(None, "use only the first prompts; None: all", minimum=1)
    num_generations: int = option(
        8, "completions per prompt, whose rewards are compared", minimum=2
    )
    num_iterations: int = option(1, "optimizer steps per sampled batch", minimum=1)
    max_completion_length: int = option(250, "new tokens per completion (TRL: 512)", minimum=1)
    temperature: float = option(1.0, "sampling temperature", above=0)
    # with top_k off and top_p 1, the sampling distribution is that of the log-probabilities
    top_k: int = option(0, "sample from the k most likely tokens; 0: off", minimum=0)
    top_p: float = option(1.0, "nucleus sampling; 1: off", above=0, maximum=1)
    beta: float = option(
        0.0,
        "weight of the KL divergence from the start model (Shao et al. 2024: 0.04)",
        minimum=0,
    )
    use_bias_correction_kl: bool = option(
        True, "multiply the KL term by the importance ratio (DeepSeek-V3.2)"
    )
    epsilon: float = option(
        0.2, "the importance ratio is clipped below at 1 - epsilon", above=0, below=1
    )
    epsilon_high: float | None = option(
        None,
        "the importance ratio is clipped above at 1 + epsilon_high; None: epsilon",
        above=0,
    )
    loss_type: str = option(
        "dapo", "how token losses are averaged, see train/grpo_loss.py", choices=GRPO_LOSS_TYPES
    )
    scale_rewards: str = option(
        "group", "divide advantages by the standard deviation of this", choices=REWARD_SCALES
    )
    mask_truncated_completions: bool = option(
        False, "exclude completions without an end-of-sequence token from the loss"
    )
    weights: dict[str, float] | None = option(None, "reward weights; None: rewards.weights")
    faith_weight: float = option(
        1.0, "added to the overall score per unit of FAITH: losing all user words costs this"
    )
    constraints: dict[str, float] | None = option(
        None, "minimum scores; None: rewards.constraints; {}: none"
    )
    constraint_penalty: float = option(
        1.0, "distance of infeasible completions below the group's lowest reward", minimum=0.0
    )
    keep_videos: str = option("none", "videos to keep on disk", choices=("none", "all"))


SECTIONS: dict[str, type[TrainingConfig]] = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}
AnyTrainingConfig = TypeVar("AnyTrainingConfig", bound=TrainingConfig)


def sft_config() -> ConfigDict:
    """The `sft` section of a configuration with its default values."""
    return config_dict(SFTConfig())


def dpo_config() -> ConfigDict:
    """The `dpo` section of a configuration with its default values."""
    return config_dict(DPOConfig())


def grpo_config() -> ConfigDict:
    """The `grpo` section of a configuration with its default values."""
    return config_dict(GRPOConfig())


def sft_section(config: Any) -> SFTConfig:
    """The checked `sft` section of a whole configuration."""
    return _section(config, "sft", SFTConfig)


def dpo_section(config: Any) -> DPOConfig:
    """The checked `dpo` section of a whole configuration."""
    return _section(config, "dpo", DPOConfig)


def grpo_section(config: Any) -> GRPOConfig:
    """The checked `grpo` section of a whole configuration."""
    return _section(config, "grpo", GRPOConfig)


def section(config: Any, name: str) -> TrainingConfig:
    """The checked section "sft", "dpo" or "grpo" of a whole configuration."""
    return _section(config, name, SECTIONS[name])


def check_training(values: Any, name: str) -> TrainingConfig:
    """Check the section "sft", "dpo" or "grpo" and return it as its dataclass.

    Args:
      values: the section: a ConfigDict, a mapping or the dataclass.

    Raises:
      BadInput: an unknown field, a value of another type, a value outside its range, or values that
        do not fit each other.
    """
    return _checked(values, name, SECTIONS[name])


def _section(config: Any, name: str, kind: type[AnyTrainingConfig]) -> AnyTrainingConfig:
    is_mapping = isinstance(config, Mapping | ConfigDict)
    return _checked(config[name] if is_mapping else getattr(config, name), name, kind)


def _checked(values: Any, name: str, kind: type[AnyTrainingConfig]) -> AnyTrainingConfig:
    if isinstance(values, kind):
        loss_type = getattr(values, "loss_type", None)
        if kind is DPOConfig and isinstance(loss_type, str):
            changed: dict[str, Any] = {"loss_type": (loss_type,)}
            values = dataclasses.replace(values, **changed)
        _check_values(values, name)
        return values
    changes: dict[str, Any] = values.to_dict() if isinstance(values, ConfigDict) else {**values}
    section = config_dict(kind()).lock()
    unknown = sorted(set(changes) - set(section))
    if unknown:
        raise BadInput(
            f"config.{name}.{unknown[0]}: no such field; the fields are"
            f" {', '.join(sorted(section))}",
            source="configuration",
            field=f"{name}.{unknown[0]}",
        )
    if kind is DPOConfig and isinstance(changes.get("loss_type"), str):
        changes["loss_type"] = (changes["loss_type"],)
    for field, value in changes.items():
        try:
            section.update({field: value})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = error.args[0] if error.args else error
            raise BadInput(
                f"config.{name}.{field}: {reason}", source="configuration", field=f"{name}.{field}"
            ) from error
    fields = from_config_dict(kind, section.to_dict())
    _check_values(fields, name)
    return fields


def _check_values(fields: TrainingConfig, name: str) -> None:
    def fail(field: str, problem: str):
        value = getattr(fields, field)
        raise BadInput(
            f"config.{name}.{field}={value!r}: {problem}",
            source="configuration",
            field=f"{name}.{field}",
        )

    check_section(type(fields)(), dataclasses.asdict(fields), f"{name}.")
    if fields.batch_size % fields.gradient_accumulation_steps:
        fail("gradient_accumulation_steps", f"does not divide batch_size={fields.batch_size}")
    if fields.quantize and fields.full_finetuning:
        fail("quantize", "full fine-tuning has no frozen base; set full_finetuning=False")
    if fields.max_steps is None and fields.num_train_epochs <= 0:
        fail("num_train_epochs", "set num_train_epochs or max_steps to more than 0")
    if not fields.full_finetuning and not fields.lora.target_modules:
        raise BadInput(
            f"config.{name}.lora.target_modules=(): name at least one dense layer, such as q_proj",
            source="configuration",
            field=f"{name}.lora.target_modules",
        )
    if isinstance(fields, DPOConfig):
        check_preference_loss(fields)
    if isinstance(fields, GRPOConfig):
        check_policy_loss(fields)
