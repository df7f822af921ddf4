"""The fields of the configuration's `sft`, `dpo` and `grpo` sections; defaults are the constants of
arXiv 2412.15156.

Imports nothing heavy: the command line lists these fields before any model is built.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.errors import BadInput

REMAT_POLICIES = (
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
)
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
        # padded lengths, one compiled program each; empty: one, the longest example's
        length_buckets=(),
        # the frozen base in few bits: int8, int4 or nf4 (needs the extra `quantize`); empty: as it
        # was loaded
        quantize="",
        full=False,  # True: all parameters are trained, there is no adapter
        lora=dict(r=8, lora_alpha=32.0, lora_dropout=0.0, target_modules=ALL_LINEARS),
        loss_chunk=256,  # positions whose logits exist at a time
        remat=True,  # recompute each layer's activations in the backward pass
        # what is saved all the same: a name of jax.checkpoint_policies; dots_saveable keeps matrix
        # products, which costs memory and saves computing them again
        remat_policy="nothing_saveable",
        # True: no loop over the layers; faster where they are small, slow to compile where they are
        # many
        unroll=False,
        # steps between lines on the screen and in metrics.jsonl (which has every step)
        log_every=10,
        save_every=100,  # steps between checkpoints; 0: only the last
        keep=2,  # checkpoints that stay
    )


def sft_config() -> ConfigDict:
    """Defaults: llama-recipes' LoRA on queries and values, learning rate x 0.85 per epoch; 4 per
    device on 2 GPUs."""
    return ConfigDict(
        _shared()
        | dict(
            # a file in place of sft_pairs.jsonl: .jsonl as that one, or .json with [[prompt,
            # refined], ...]
            pairs="",
            epochs=12.0,
            schedule="exponential_per_epoch",
            grad_clip=0.0,
            # True: a batch's examples share rows of max_length tokens; same losses, less padding
            packing=False,
            lora=dict(r=8, lora_alpha=32.0, lora_dropout=0.05, target_modules=("q_proj", "v_proj")),
        )
    )


def dpo_config() -> ConfigDict:
    """Defaults: the published run; learning rate and schedule are those of transformers'
    TrainingArguments."""
    return ConfigDict(
        _shared()
        | dict(
            epochs=3.0,
            batch_size=32,
            grad_accumulation=8,
            learning_rate=5e-5,
            warmup_ratio=0.1,
            lora=dict(r=16, lora_alpha=16.0, lora_dropout=0.0, target_modules=ALL_LINEARS),
            beta=0.1,
            loss_type=("sigmoid",),
            loss_weights=placeholder(tuple),
            label_smoothing=0.0,
            ld_alpha=placeholder(float),
            precompute_ref_log_probs=False,
        )
    )


def grpo_config() -> ConfigDict:
    """Defaults: TRL 1.16's GRPOConfig where it has the field; batch, adapter and completion length
    are the published DPO run's. Steps count sampled batches, each with `num_iterations` optimizer
    steps."""
    fields = _shared() | dict(
        # the booster to start from: sft, dpo_1, ..., base (the rewriter untuned), or a folder
        start="sft",
        prompts="mini:prompts/prefer.txt",
        count=0,  # the first so many prompts; 0 takes all
        num_generations=8,  # completions of a prompt, among which rewards are compared
        batch_size=32,  # completions of a step: batch_size / num_generations prompts
        num_iterations=1,  # optimizer steps on each sampled batch
        grad_accumulation=8,
        # TRL's 1e-6 is for all parameters; an adapter takes about ten times that (Schulman et
        # al. 2025, "LoRA without regret")
        learning_rate=1e-5,
        lora=dict(r=16, lora_alpha=16.0, lora_dropout=0.0, target_modules=ALL_LINEARS),
        max_completion_length=250,  # new tokens (TRL: 512)
        temperature=1.0,
        top_k=0,  # off, as top_p=1: what is sampled is then what the log-probabilities are of
        top_p=1.0,
        # of the divergence from the start (Shao et al.: 0.04); with LoRA it is measured at 0
        # too
        beta=0.0,
        use_bias_correction_kl=True,
        # the ratio of new to old probabilities counts within 1 - epsilon and 1 + epsilon_high
        epsilon=0.2,
        epsilon_high=placeholder(float),  # None: as epsilon
        loss_type="dapo",  # grpo, dapo, bnpo, dr_grpo: see train/grpo_loss.py
        # group, batch, none: what advantages are divided by the deviation of
        scale_rewards="group",
        # True: a completion that was cut off is no part of the loss
        mask_truncated_completions=False,
        weights=None,  # None: rewards.weights
        # added to overall per unit of FAITH: dropping all of the user's words costs 1
        faith_weight=1.0,
        floors=None,  # None: rewards.floors; {} for none
        # how far below its group's least reward a completion under a floor is put
        floor_penalty=1.0,
        keep_videos="none",  # none or all
        log_every=1,  # a step makes videos: it takes its time
        save_every=10,  # the steps since then are done again after a stop, but not their videos
    )
    del (
        fields["max_length"],
        fields["length_buckets"],
    )  # every batch has one shape, from prompts and completions
    return ConfigDict(fields)


def section(config: ConfigDict, name: str) -> ConfigDict:
    """`config[name]` over the defaults, checked.

    Raises:
      BadInput: an unknown field, a value of another type, or numbers that cannot work together.
    """
    merged = {"sft": sft_config, "dpo": dpo_config, "grpo": grpo_config}[name]()
    given = config[name].to_dict()
    if unknown := sorted(set(given) - set(merged)):
        raise BadInput(
            f"config.{name}.{unknown[0]} is not a field; the fields are {', '.join(sorted(merged))}"
        )
    if name == "dpo" and isinstance(given.get("loss_type"), str):
        given["loss_type"] = (given["loss_type"],)
    try:
        merged.update(given)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"config.{name}: {error.args[0] if error.args else error}") from error
    for field in (
        "batch_size",
        "grad_accumulation",
        "max_length",
        "max_prompt_length",
        "loss_chunk",
        "log_every",
        "num_iterations",
    ):
        if field in merged and merged[field] < 1:
            raise BadInput(f"config.{name}.{field}={merged[field]} must be at least 1")
    if merged.batch_size % merged.grad_accumulation:
        raise BadInput(
            f"config.{name}.grad_accumulation={merged.grad_accumulation} does not divide"
            f" batch_size={merged.batch_size}"
        )
    if merged.remat_policy not in REMAT_POLICIES:
        raise BadInput(
            f"config.{name}.remat_policy={merged.remat_policy!r} is none of"
            f" {', '.join(REMAT_POLICIES)}"
        )
    if merged.quantize and merged.full:
        raise BadInput(
            f"config.{name}.quantize={merged.quantize!r}: full tuning has no frozen base; set"
            " full=False"
        )
    if merged.steps <= 0 and merged.epochs <= 0:
        raise BadInput(f"config.{name}: set epochs or steps to more than 0")
    return merged
