"""The rewriter's programs, traced from shapes: the functions, shardings and batch shapes of the
stages, without reading weights or allocating arrays."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pav_jax.checkpoints import gguf
from pav_jax.language import decode, prefill, sampling
from pav_jax.language.language_model import DTYPES, LanguageModel
from pav_jax.language.lora import init_lora
from pav_jax.language.model_files import SMOLLM2
from pav_jax.models.decoder import Decoder, DecoderConfig, flops, hf
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.attention import make_attention_fn
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.parallel.mesh import batch_shards
from pav_jax.preflight.program import CostedPhase, Program, config_folder, param_shapes
from pav_jax.storage.json_files import read_json
from pav_jax.train import config as train_config
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train import sft_trainer as sft
from pav_jax.train.loop import compile_step
from pav_jax.train.optimizer import make_optimizer, make_schedule
from pav_jax.train.state import (
    base_model,
    count_steps,
    lora_config,
    make_state,
    step_flops,
    training_model,
)

SEQUENCES_PER_ROW = {"sft": 1, "dpo": 2}  # DPO: the preferred and the other answer


def outline(config: Any, mesh: Mesh, config_json: str | Path | None = None) -> LanguageModel:
    """The configuration's rewriter with shapes instead of parameters. It can only be traced.

    Args:
      config_json: take the sizes from this file instead.
    """
    path = config.rewriter.path
    dtype = DTYPES[config.rewriter.dtype]
    if config_json is None and (path == SMOLLM2 or path.endswith(".gguf")):
        file = gguf.smollm2() if path == SMOLLM2 else path
        sizes = gguf.GGUFFile(file, header_only=True).config()
    else:
        source = config_json or config_folder(path, "config.rewriter.path") / "config.json"
        sizes = hf.config_from_hf(read_json(source), str(source))
    params = param_shapes(hf, sizes, dtype, mesh)
    model = Decoder(
        sizes,
        dtype,
        make_attention_fn(config.rewriter.attention, mesh),
        sum_experts_fn=make_sum_experts_fn(sizes.experts, mesh),
    )
    return LanguageModel(model, params, sizes, tokenizer=None, mesh=mesh, eos=_eos_ids(sizes))


def _mesh(lm: LanguageModel) -> Mesh:
    assert lm.mesh is not None, "outline() sets it"
    return lm.mesh


def _eos_ids(sizes: DecoderConfig) -> tuple[int, ...]:
    if isinstance(sizes.eos_token_id, int):
        return (sizes.eos_token_id,)
    return sizes.eos_token_id or (0,)


# ---------------------------------------------------------------------------------------- training


def training(name: str, config: Any, lm: LanguageModel) -> Program:
    """The train step of a stage.

    Args:
      name: the stage, "sft" or "dpo".
      lm: from `outline`.
    """
    options: Any = train_config.section(config, name)
    row_length = config.check.row_length
    if row_length is None:
        row_length = max(options.length_buckets, default=options.max_length)
    steps, _ = count_steps(options, config.check.num_examples)
    num_runs = steps * (config.rounds if name == "dpo" else 1)
    formula_flops = _train_step_flops(name, options, lm, row_length)
    return Program(
        _batch_text(name, options, row_length),
        (CostedPhase(f"{name} step", formula_flops, num_runs),),
        lambda: _trace_train_step(name, config, lm, row_length),
    )


def _batch_text(name: str, options: Any, row_length: int) -> str:
    unit = "pairs" if name == "dpo" else "rows"
    text = f"{options.batch_size} {unit} of {row_length} tokens"
    if options.gradient_accumulation_steps > 1:
        text += f", {options.gradient_accumulation_steps} accumulation steps"
    return text


def _reference_is_precomputed(name: str, options: Any) -> bool:
    """Whether the DPO reference's log-probabilities are inputs of the train step."""
    return name == "dpo" and dpo.reference_is_precomputed(options)


def _train_step_flops(name: str, options: Any, lm: LanguageModel, row_length: int) -> float:
    adapter: Any = {}
    if not options.full_finetuning:
        adapter = jax.eval_shape(
            lambda: init_lora(lm.params, lora_config(options), jax.random.key(0))
        )
    num_passes = dpo.num_reference_passes(options) if name == "dpo" else 0
    batch = _batch_shapes(name, options, _mesh(lm), row_length)
    return step_flops(lm, options, adapter, num_passes)(batch)


def _trace_train_step(
    name: str, config: Any, lm: LanguageModel, row_length: int
) -> jax.stages.Traced:
    options: Any = train_config.section(config, name)
    steps, steps_per_epoch = count_steps(options, config.check.num_examples)
    schedule = make_schedule(options, name, steps, steps_per_epoch)
    optimizer = make_optimizer(options, schedule)
    state, shardings = _state_shapes(name, config, lm, options, optimizer)
    make_train_step = {"sft": sft, "dpo": dpo}[name].make_train_step
    step = make_train_step(training_model(lm, options), optimizer, schedule, options)
    batch = _batch_shapes(name, options, _mesh(lm), row_length)
    return compile_step(step, shardings).trace(state, batch)


def _batch_shapes(name: str, options: Any, mesh: Mesh, row_length: int) -> dict:
    """The shapes of a training batch, with their shardings."""
    rows: tuple[int, ...] = (options.batch_size,)
    if SEQUENCES_PER_ROW[name] > 1:
        rows += (SEQUENCES_PER_ROW[name],)
    shapes = {
        "ids": jax.ShapeDtypeStruct((*rows, row_length), jnp.int32),
        "answer": jax.ShapeDtypeStruct((*rows, row_length), jnp.bool_),
    }
    if name == "sft" and options.packing:
        shapes["segments"] = jax.ShapeDtypeStruct((*rows, row_length), jnp.int32)
    if _reference_is_precomputed(name, options):
        shapes["reference"] = jax.ShapeDtypeStruct(rows, jnp.float32)
    shardings = {key: sharding_rules.batch_sharding(s.shape, mesh) for key, s in shapes.items()}
    return sharding_rules.sharded_shapes(shapes, shardings)


def _state_shapes(
    name: str, config: Any, lm: LanguageModel, options: Any, optimizer: Any
) -> tuple[Any, Any]:
    """The shapes of the stage's train state, and its shardings."""
    shardings: Any = None

    def make(params):
        nonlocal shardings
        base = base_model(dataclasses.replace(lm, params=params), options)
        state, shardings, _ = make_state(name, base, options, optimizer, config.seed)
        return state

    shapes = jax.eval_shape(make, lm.params)
    return sharding_rules.sharded_shapes(shapes, shardings), shardings


# ---------------------------------------------------------------------------------------- sampling


def sampling_program(config: Any, lm: LanguageModel) -> Program:
    """How `prefer` samples rewrites: prefill, then a loop that decodes one token of every row."""
    options = config.prefer
    max_new_tokens = options.max_new_tokens
    mesh = _mesh(lm)
    shards = batch_shards(mesh)
    rows = math.ceil(lm.batch_size / shards) * shards
    settings = sampling.Sampling(max_new_tokens, options.temperature, options.top_k, options.top_p)
    prompt_length = sampling.prompt_bucket(config.check.prompt_length)
    num_prompts = options.max_prompts or config.check.num_examples
    num_batches = math.ceil(num_prompts * options.num_return_sequences / rows) * config.rounds
    shape = prefill.make_shape(lm.model, rows, 0, prompt_length, settings, lm.eos, mesh)
    start = flops.forward(lm.config, rows, prompt_length, prompt_length, 1)
    step = flops.forward(lm.config, rows, 1, shape.layer_slots, 1)
    return Program(
        f"{rows} rows, prompts of {prompt_length} tokens, up to {max_new_tokens} new tokens",
        (
            CostedPhase("prefill", start.total, num_batches),
            CostedPhase("decode, per token", step.total, num_batches * max_new_tokens),
        ),
        lambda: decode.trace(shape, lm.variables, settings, mesh),
    )
