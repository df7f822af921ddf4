"""The fields of the configuration's `sft` and `dpo` sections; defaults are the constants of arXiv 2412.15156.

Imports nothing heavy: the command line lists these fields before any model is built.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.errors import BadInput

ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _shared() -> dict:
    return dict(
        epochs=1.0,  # passes over the data; not used where steps > 0
        steps=0,  # optimizer steps; 0: from epochs
        batch_size=8,  # examples (dpo: pairs) per optimizer step, over all devices and parts
        grad_accumulation=1,  # parts a batch is computed in; must divide batch_size
        learning_rate=1e-4,
        schedule="linear",  # linear, cosine, constant, exponential_per_epoch
        decay_per_epoch=0.85,  # of exponential_per_epoch
        warmup_ratio=0.0,
        weight_decay=0.0,
        grad_clip=1.0,  # global norm; 0: none
        max_length=1024,  # tokens of prompt and answer
        max_prompt_length=512,  # longer prompts lose tokens on the left
        length_buckets=(),  # padded lengths, one compiled program each; empty: one, the longest example's
        full=False,  # True: all parameters are trained, there is no adapter
        lora=dict(r=8, alpha=32.0, dropout=0.0, target_modules=ALL_LINEARS),
        loss_chunk=256,  # positions whose logits exist at a time
        remat=True,  # recompute each layer's activations in the backward pass
        log_every=10,  # steps between lines on the screen and in metrics.jsonl (which has every step)
        save_every=100,  # steps between checkpoints; 0: only the last
        keep=2,  # checkpoints that stay
    )


def sft_config() -> ConfigDict:
    """Defaults: llama-recipes' LoRA on queries and values, learning rate x 0.85 per epoch; 4 per device on 2 GPUs."""
    return ConfigDict(_shared() | dict(
        epochs=12.0,
        schedule="exponential_per_epoch",
        grad_clip=0.0,
        lora=dict(r=8, alpha=32.0, dropout=0.05, target_modules=("q_proj", "v_proj")),
    ))


def dpo_config() -> ConfigDict:
    """Defaults: the published run; learning rate and schedule are those of transformers' TrainingArguments."""
    return ConfigDict(_shared() | dict(
        epochs=3.0,
        batch_size=32,
        grad_accumulation=8,
        learning_rate=5e-5,
        warmup_ratio=0.1,
        lora=dict(r=16, alpha=16.0, dropout=0.0, target_modules=ALL_LINEARS),
        beta=0.1,
        loss_type=("sigmoid",),
        loss_weights=placeholder(tuple),
        label_smoothing=0.0,
        ld_alpha=placeholder(float),
        precompute_ref_log_probs=False,
    ))


def section(config: ConfigDict, name: str) -> ConfigDict:
    """`config[name]` over the defaults, checked.

    Raises:
      BadInput: an unknown field, a value of another type, or numbers that cannot work together.
    """
    merged, given = {"sft": sft_config, "dpo": dpo_config}[name](), config[name].to_dict()
    if unknown := sorted(set(given) - set(merged)):
        raise BadInput(f"config.{name}.{unknown[0]} is not a field; the fields are {', '.join(sorted(merged))}")
    if isinstance(given.get("loss_type"), str):
        given["loss_type"] = (given["loss_type"],)
    try:
        merged.update(given)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"config.{name}: {error.args[0] if error.args else error}") from error
    for field in ("batch_size", "grad_accumulation", "max_length", "max_prompt_length", "loss_chunk", "log_every"):
        if merged[field] < 1:
            raise BadInput(f"config.{name}.{field}={merged[field]} must be at least 1")
    if merged.batch_size % merged.grad_accumulation:
        raise BadInput(f"config.{name}.grad_accumulation={merged.grad_accumulation} does not divide"
                       f" batch_size={merged.batch_size}")
    if merged.steps <= 0 and merged.epochs <= 0:
        raise BadInput(f"config.{name}: set epochs or steps to more than 0")
    return merged
