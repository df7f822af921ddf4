r"""Llama-3-8B-Instruct as the rewriter: the method's model, adapters and constants (arXiv
2412.15156), on its own or on a TPU slice.

    pav check --config=llama3_8b:dpo --topology=v5e:4x4
    pav check --config=llama3_8b:dpo,v5e-16
    TPU_TYPE=v5litepod-16 launch/watch.sh pav dpo --config=llama3_8b:dpo,v5e-16 \
        --workdir=$BUCKET/runs/llama3
    TPU_TYPE=v5litepod-64 SLICES=4 launch/watch.sh pav dpo \
        --config=llama3_8b:dpo,v5e-256 --workdir=$BUCKET/runs/llama3

The argument is a stage, or a stage and a slice of `SLICES`. The frozen base is bfloat16; adapters
and optimizer state are float32.

HBM is the TPU compiler's figure. Step times and chip-hours are estimates of `pav check` for rows of
1024 tokens, the longest possible; rows in the 512 bucket take half as long. Chip-hours are those of
SFT, or of both DPO rounds. None of these has run on a TPU yet.

    stage  slice    chips, hosts    HBM/chip        steps                   s/step        chip-hours
    sft    v5e-16   16, 4           2.0 of 16 GiB   7500 of 8 rows          0.31 to 0.47  10 to 16
    sft    v5p-8    4, 1            6.1 of 95 GiB   7500 of 8 rows          0.19 to 0.39  1.6 to 3.3
    sft    v6e-8    8, 1            3.6 of 32 GiB   7500 of 8 rows          0.16 to 0.26  2.7 to 4.4
    dpo    v5e-16   16, 4           5.2 of 16 GiB   469 of 32 pairs         1.2 to 2.9    4.9 to 12
    dpo    v5p-8    4, 1            16 of 95 GiB    469 of 32 pairs         2.1 to 2.9    2.2 to 3.1
    dpo    v6e-8    8, 1            8.9 of 32 GiB   469 of 32 pairs         0.8 to 1.7    1.8 to 3.4
    dpo    v5e-256  256, 64         3.0 of 16 GiB   1172 of 256 pairs       0.61 to 1.7   100 to 280

SFT trains on 5000 pairs for 12 epochs: 38 to 59 minutes on a v5e-16, 24 to 49 on a v5p-8, 20 to 33
on a v6e-8. On v5e and v6e the small batches make it bound by the inter-chip links, which carry
weights. DPO trains on 5000 preferences (v5e-256: 100,000) for 3 epochs, per round 9 to 23 minutes
on a v5e-16, 17 to 23 on a v5p-8, 7 to 13 on a v6e-8 and 12 to 33 on a v5e-256. Sampling its
candidates, 50,000 rewrites of up to 250 tokens, takes another 5.8 to 9.5 chip-hours on a v5e-16 and
2.5 to 3.4 on a v6e-8. On four slices of v5e-64 only the adapters' gradients cross slices, 2 MB per
chip and step.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from pav_jax import defaults


@dataclasses.dataclass(frozen=True)
class Slice:
    """How one stage runs on a TPU slice.

    Attributes:
      topology: generation and chips of one slice.
      mesh: sizes of the mesh axes that are not 1.
      batch_size: rows (SFT) or pairs (DPO) per step.
      num_slices: slices that the data axis spans.
      learning_rate: None: the method's.
      num_examples: pairs that the estimates above assume.
      programs: what `pav check` compiles.
    """

    topology: str
    mesh: Mapping[str, int]
    batch_size: int
    num_slices: int = 1
    learning_rate: float | None = None
    num_examples: int = 5000
    programs: tuple[str, ...] = ()


SLICES = {
    # The method's SFT batch has 8 rows: on 16 chips two share a row.
    ("sft", "v5e-16"): Slice("v5e:4x4", {"fsdp": 8, "tensor": 2}, batch_size=8),
    # v5p-8 counts cores, two per chip.
    ("sft", "v5p-8"): Slice("v5p:2x2x1", {"fsdp": 4}, batch_size=8),
    ("sft", "v6e-8"): Slice("v6e:2x4", {"fsdp": 8}, batch_size=8),
    ("dpo", "v5e-16"): Slice("v5e:4x4", {"fsdp": 16}, batch_size=32),
    ("dpo", "v5p-8"): Slice("v5p:2x2x1", {"fsdp": 4}, batch_size=32),
    ("dpo", "v6e-8"): Slice("v6e:2x4", {"fsdp": 8}, batch_size=32),
    # One part of the data axis per slice: only gradients of adapters cross the data-center network.
    # Eight times the method's batch, a pair per chip; the learning rate is the method's times the
    # square root of eight, which is untested. Sampling on this mesh would send every token's logits
    # between slices, so it is not compiled.
    ("dpo", "v5e-256"): Slice(
        "v5e:8x8",
        {"data": 4, "fsdp": 64},
        batch_size=256,
        num_slices=4,
        learning_rate=1.4e-4,
        num_examples=100_000,
        programs=("dpo",),
    ),
}


def get_config(argument: str = "dpo") -> ConfigDict:
    """Returns the configuration.

    Args:
      argument: the stage that `pav check` compiles, "sft" or "dpo", and after a comma a slice of
        `SLICES` for it: "dpo,v5e-16".
    """
    stage, _, slice_name = argument.partition(",")
    config = _get_model_config(stage)
    if slice_name:
        if (stage, slice_name) not in SLICES:
            choices = "; ".join(",".join(key) for key in SLICES)
            raise ValueError(f"there is no {argument!r}; choose from {choices}")
        _set_slice(config, stage, SLICES[stage, slice_name])
    return config


def _get_model_config(stage: str) -> ConfigDict:
    if stage not in ("sft", "dpo"):
        raise ValueError(f"stage {stage!r}; choose sft or dpo")
    config = defaults.get_config()
    config.rewriter.path = "meta-llama/Meta-Llama-3-8B-Instruct"
    config.rewriter.dtype = "bfloat16"
    # the instruction to rewrite, without which the untuned model answers the prompt
    config.rewriter.template = "auto"
    for options in (config.sft, config.dpo):
        # A short prompt and its rewrite fit the first bucket: nearly all rows do.
        options.length_buckets = (512, 1024)
        options.save_steps = 50
    config.mesh.fsdp = -1
    # Before a round of DPO, `prefer` samples.
    config.check.programs = (stage,) if stage == "sft" else (stage, "sample")
    return config


def _set_slice(config: ConfigDict, stage: str, tpu_slice: Slice) -> None:
    config.check.topology = tpu_slice.topology
    config.check.num_slices = tpu_slice.num_slices
    config.check.num_examples = tpu_slice.num_examples
    config.check.programs = tpu_slice.programs or config.check.programs
    config.mesh.update(tpu_slice.mesh)
    options = config[stage]
    options.batch_size = tpu_slice.batch_size
    if stage == "dpo":
        options.gradient_accumulation_steps = 1
    if tpu_slice.learning_rate is not None:
        options.learning_rate = tpu_slice.learning_rate
