"""The rewriter's programs, traced from shapes: the very functions, shardings and batch shapes of
the stages, with no weight read and no array made.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pav_jax.checkpoints import gguf
from pav_jax.language import sampling
from pav_jax.language.language_model import DTYPES, SMOLLM2, LanguageModel
from pav_jax.models.llama import Llama, LlamaConfig, flops, hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.attention import make_attention_fn
from pav_jax.parallel.mesh import batch_shards
from pav_jax.preflight.program import Assumed, Part, Program, config_folder
from pav_jax.storage.json_files import read_json
from pav_jax.train import config as train_config
from pav_jax.train import dpo, sft, stage
from pav_jax.train.loop import compile_step
from pav_jax.train.optimizer import make_optimizer, make_schedule


def model(config: ConfigDict, mesh: Mesh, file: str | None = None) -> LanguageModel:
    """The rewriter that the configuration names, its parameters shapes on `mesh`. It computes
    nothing, it is traced.

    Args:
      file: a config.json to use instead.
    """
    path, dtype = config.rewriter.path, DTYPES[config.rewriter.dtype]
    if file is None and (path == SMOLLM2 or path.endswith(".gguf")):
        sizes = gguf.GGUFFile(gguf.smollm2() if path == SMOLLM2 else path).config()
    else:
        source = Path(file) if file else config_folder(path, "config.rewriter.path") / "config.json"
        sizes = hf.config_from_hf(read_json(source), str(source))
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), hf.param_shapes(sizes))
    params = sharding_rules.sharded_shapes(
        shapes, sharding_rules.shardings(logical_axes(hf.weights(sizes)), shapes, mesh)
    )
    model = Llama(sizes, dtype, make_attention_fn(config.rewriter.attention, mesh))
    return LanguageModel(model, params, sizes, tokenizer=None, mesh=mesh, eos=_eos(sizes))


def _eos(sizes: LlamaConfig) -> tuple[int, ...]:
    return (
        (sizes.eos_token_id,) if isinstance(sizes.eos_token_id, int) else sizes.eos_token_id or (0,)
    )


# ----------------------------------------------------------------------------------------- training


def training(name: str, config: ConfigDict, lm: LanguageModel, assumed: Assumed) -> Program:
    """The optimizer step of the stage `name`, "sft" or "dpo"."""
    fields = train_config.section(config, name)
    length = assumed.length or max(fields.length_buckets, default=fields.max_length)
    answers = {"sft": 1, "dpo": 2}[name]
    steps, per_epoch = stage.count_steps(fields, assumed.examples)
    schedule = make_schedule(fields, name, steps, per_epoch)
    tx = make_optimizer(fields, schedule)
    computed_before = name == "dpo" and (fields.precompute_ref_log_probs or fields.full)

    def trace() -> jax.stages.Traced:
        state, shardings = _state(name, config, lm, fields, tx)
        rows = (fields.batch_size,) + (answers,) * (answers > 1)
        shapes = {
            "ids": jax.ShapeDtypeStruct((*rows, length), jnp.int32),
            "answer": jax.ShapeDtypeStruct((*rows, length), jnp.bool_),
        }
        if fields.get("packing"):
            shapes["segments"] = jax.ShapeDtypeStruct((*rows, length), jnp.int32)
        if computed_before:
            shapes["reference"] = jax.ShapeDtypeStruct(rows, jnp.float32)
        batch = sharding_rules.sharded_shapes(
            shapes, {n: sharding_rules.batch_sharding(s.shape, lm.mesh) for n, s in shapes.items()}
        )
        make = {"sft": sft, "dpo": dpo}[name].make_train_step
        return compile_step(
            make(stage.training_model(lm, fields), tx, schedule, fields), shardings
        ).trace(state, batch)

    adapter = (
        {}
        if fields.full
        else jax.eval_shape(
            lambda: stage.lora.init_lora(lm.params, stage.lora_config(fields), jax.random.key(0))
        )
    )
    one = flops.forward(
        lm.config, fields.batch_size * answers, length, length, length, flops.adapter_size(adapter)
    )
    operations = flops.train_step(one, fields.full)
    if name == "dpo" and not computed_before:
        operations += one.total - one.adapters
    what = "pairs" if answers == 2 else "rows"
    batch = f"{fields.batch_size} {what} of {length} tokens" + (
        f" in {fields.grad_accumulation} parts" if fields.grad_accumulation > 1 else ""
    )
    runs = steps * (config.rounds if name == "dpo" else 1)
    return Program(batch, (Part(f"{name} step", operations, runs),), trace)


def _state(
    name: str, config: ConfigDict, lm: LanguageModel, fields: ConfigDict, tx: Any
) -> tuple[Any, Any]:
    """The stage's own state as shapes, and its shardings."""
    kept = {}

    def make(params):
        started = stage.base(dataclasses.replace(lm, params=params), fields)
        state, kept["shardings"], _ = stage.make_state(name, started, fields, tx, config.seed)
        return state

    shapes = jax.eval_shape(make, lm.params)
    return sharding_rules.sharded_shapes(shapes, kept["shardings"]), kept["shardings"]


# ----------------------------------------------------------------------------------------- sampling


def sample(config: ConfigDict, lm: LanguageModel, assumed: Assumed) -> Program:
    """How `prefer` writes rewrites: reading the prompts, then a loop that writes a token per row
    and turn."""
    options, shards = config.prefer, batch_shards(lm.mesh)
    rows = math.ceil(lm.batch_size / shards) * shards
    settings = sampling.Sampling(
        options.max_new_tokens, options.temperature, options.top_k, options.top_p
    )
    prompt = sampling.prompt_bucket(assumed.prompt_length)
    batches = (
        math.ceil((options.count or assumed.examples) * options.samples / rows) * config.rounds
    )
    keys = prompt + math.ceil(options.max_new_tokens / sampling.ROOM_STEP) * sampling.ROOM_STEP
    read = flops.forward(lm.config, rows, prompt, prompt, 1).total
    write = flops.forward(lm.config, rows, 1, keys, 1).total
    parts = (
        Part("prefill", read, batches),
        Part("decode, per token", write, batches * options.max_new_tokens),
    )
    return Program(
        f"{rows} rows, prompts of {prompt} tokens, up to {options.max_new_tokens} new ones",
        parts,
        lambda: sampling.trace(lm.model, lm.variables, prompt, settings, lm.eos, rows, lm.mesh),
    )
