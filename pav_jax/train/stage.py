"""From a model and a file of examples to a booster: what both trainings do alike around the
loop."""

import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict
from rich.progress import Progress

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.language import lora, quantized
from pav_jax.language.language_model import LanguageModel
from pav_jax.models.llama import flops
from pav_jax.models.llama.hf import weights
from pav_jax.models.llama.model import unembed
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import processes, sharding_rules
from pav_jax.parallel.mesh import batch_shards, check_batch, make_mesh
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.train import batches, tfds_builders
from pav_jax.train.log_probs import token_log_probs
from pav_jax.train.loop import Report, TrainState, state_shardings

# fields that may change between two runs of one training: they move no number of the loss curve
FREE_FIELDS = {
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "remat",
    "remat_policy",
    "unroll_layers",
    "loss_chunk_size",
    "gradient_accumulation_steps",
    "length_buckets",
    "packing",
    "pairs",
    "keep_videos",
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples on disk, and how they become rows."""

    source: Sequence[Mapping[str, Any]]
    encoder: batches.Encoder
    answers: tuple[str, ...]
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]  # tokens of each example's longest row
    pack: int = 0  # batches come in multiples of so many rows, examples sharing rows; 0: a row each

    def batches(self, batch_size: int, seed: int | None, columns: Mapping[str, Any] | None = None):
        """Batches of `batch_size` examples over all processes; this one gets its rows of each."""
        return batches.make_batches(
            self.source,
            self.encoder,
            self.answers,
            self.lengths,
            batch_size,
            seed,
            columns,
            self.pack,
            self.sizes,
            (jax.process_index(), jax.process_count()),
        )


def read_data(
    name: str, path: str | os.PathLike, lm: LanguageModel, fields: ConfigDict, folder: Path
) -> Data:
    """Prepares the examples of `path` under `folder` and reads each once; prints what was found.

    Raises:
      BadInput: no example, an empty answer, a token outside the vocabulary, a tokenizer without
        chat template.
    """
    builder = {"sft": tfds_builders.SftPairs, "dpo": tfds_builders.Preferences}[name]
    with processes.first_process_first(f"{name} data"):
        source = tfds_builders.data_source(builder, path, folder / "tfds")
    encoder = make_encoder(lm, fields.max_length, fields.max_prompt_length)
    answers = batches.ANSWERS[name]
    found = batches.survey(source, encoder, answers, path)
    print(f"{name}: {found}", file=sys.stderr)
    if getattr(fields, "packing", False):
        shards = batch_shards(lm.mesh) if lm.mesh is not None else 1
        return Data(
            source,
            encoder,
            answers,
            (fields.max_length,),
            found.sizes,
            fields.gradient_accumulation_steps * shards,
        )
    lengths = batches.buckets(fields.length_buckets, found.longest, fields.max_length)
    return Data(source, encoder, answers, lengths, found.sizes)


def make_encoder(lm: LanguageModel, max_length: int, max_prompt_length: int) -> batches.Encoder:
    """Raises BadInput where nothing says how an answer ends."""
    eos = (
        lm.tokenizer.eos_token_id
        if lm.tokenizer.eos_token_id is not None
        else next(iter(lm.eos), None)
    )
    if eos is None:
        raise BadInput(
            f"{lm.name}: neither tokenizer nor configuration names an eos_token; answers could"
            " not end"
        )
    return batches.Encoder(
        lm.tokenizer, lm.prompt_ids, eos, lm.config.vocab_size, max_length, max_prompt_length
    )


def count_steps(fields: ConfigDict, examples: int) -> tuple[int, int]:
    """(optimizer steps in all, steps per epoch). A last step that an epoch fills partly takes the
    next one's first."""
    per_epoch = max(1, math.ceil(examples / fields.batch_size))
    return (
        fields.max_steps
        or max(1, math.ceil(fields.num_train_epochs * examples / fields.batch_size)),
        per_epoch,
    )


def log_probs(
    model: Any,
    variables: Mapping[str, Any],
    ids_BxT: Int[Array, "B T"],
    chunk: int,
    dropout: jax.Array | None = None,
    temperature: float = 1.0,
    segments_BxT: Int[Array, "B T"] | None = None,
    wanted_BxT: Bool[Array, "B T"] | None = None,
    fixed_head: bool = False,
) -> Float[Array, "B T"]:
    """log p(ids[t] | ids[:t]), float32. Rows are padded on the right, which a causal model does not
    see.

    Args:
      segments_BxT: numbers of the examples that share a row; none sees another.
      wanted_BxT, fixed_head: as in `token_log_probs`: tokens whose value is used; no parameter is
        trained.
    """

    def logits(head, x):
        raw = unembed(head, x)
        return raw if temperature == 1.0 else raw.astype(jnp.float32) / temperature

    rngs = None if dropout is None else {"dropout": dropout}
    x_BxTxD = model.apply(
        variables,
        ids_BxT,
        segment_ids_BxT=segments_BxT,
        return_hidden=True,
        deterministic=dropout is None,
        rngs=rngs,
    )
    params = variables["params"]
    head = {name: params[name] for name in (("lm_head",) if "lm_head" in params else ("embed",))}
    return token_log_probs(logits, head, x_BxTxD, ids_BxT, chunk, wanted_BxT, fixed_head)


# ---------------------------------------------------------------------------------- model and state


def training_model(lm: LanguageModel, fields: ConfigDict) -> Any:
    """The model's mathematics with this training's adapter scale, dropout and recomputation, spread
    over its mesh."""
    how = {
        "remat": fields.remat,
        "remat_policy": fields.remat_policy,
        "unroll": fields.unroll_layers,
        "flat_rows": lm.mesh is None or lm.mesh.shape["sequence"] == 1,
    }
    model = lora.with_lora(lm.model, lora_config(fields)).clone(**how)
    return (
        model
        if lm.mesh is None
        else model.clone(constrain=sharding_rules.ShardingConstraint(lm.mesh))
    )


def base(lm: LanguageModel, fields: ConfigDict) -> LanguageModel:
    """What training starts from: the model with its adapter, where it has one, made part of the
    parameters, and these in few bits where `fields.quantize` says so."""
    if lm.lora is not None:
        lm = lm.with_params(lora.merge(lm.params, lm.lora, lm.lora_config))
    return (
        lm.with_params(quantized.quantized(lm.params, fields.quantize)) if fields.quantize else lm
    )


def lora_config(fields: ConfigDict) -> lora.LoraConfig:
    return lora.LoraConfig(
        r=fields.lora.r,
        lora_alpha=fields.lora.lora_alpha,
        lora_dropout=fields.lora.lora_dropout,
        target_modules=tuple(fields.lora.target_modules),
    )


def make_state(
    name: str, lm: LanguageModel, fields: ConfigDict, tx: optax.GradientTransformation, seed: int
) -> tuple[TrainState, TrainState, Mesh]:
    """(state on the mesh, its shardings, the mesh). Prints how many parameters are trained.

    Raises:
      BadInput: target_modules match no layer, or the mesh does not divide the batch.
    """
    mesh = lm.mesh if lm.mesh is not None else make_mesh()
    check_batch(
        mesh,
        fields.batch_size // fields.gradient_accumulation_steps,
        f"config.{name}: batch_size / gradient_accumulation_steps",
    )
    key = jax.random.key(seed)
    param_axes = logical_axes(weights(lm.config))
    if fields.full_finetuning:
        frozen, frozen_axes = {}, {}
        trained = {"params": jax.tree.map(lambda p: jnp.array(p, jnp.float32), lm.params)}
        trained_axes = {"params": param_axes}
        expected = lora.count(lm.params)
    else:
        frozen, frozen_axes = (
            {"params": lm.params},
            {"params": quantized.axes(param_axes, lm.params)},
        )
        # step numbers are folded into the key itself; this number is none of them
        adapter = lora.init_lora(lm.params, lora_config(fields), jax.random.fold_in(key, 2**31 - 1))
        trained, trained_axes = {"lora": adapter}, {"lora": lora_axes(adapter, param_axes)}
        expected = _adapter_size(lm.params, adapter, fields.lora.r)
    count, total = (
        lora.count(trained),
        sum(p.size for p in traverse_util.flatten_dict(lm.params).values()),
    )
    if count != expected:
        raise AssertionError(f"{count} parameters would be trained, {expected} should be")
    what = (
        "all parameters"
        if fields.full_finetuning
        else f"LoRA r={fields.lora.r} on {', '.join(fields.lora.target_modules)}"
    )
    print(
        f"{name}: training {count:,} parameters ({what}) of a model of {total:,}", file=sys.stderr
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        frozen=frozen,
        trained=trained,
        opt_state=tx.init(trained),
        rng=key,
    )
    shardings = state_shardings(state, frozen_axes, trained_axes, tx, mesh)
    return sharding_rules.device_put_global(state, shardings), shardings, mesh


def lora_axes(adapter: Mapping, param_axes: Mapping) -> dict:
    """Logical axes of an adapter: `a` keeps the input axis of its kernel, `b` the output axis; the
    rank is whole."""
    kernels = traverse_util.flatten_dict(param_axes)
    axes = {}
    for path in traverse_util.flatten_dict(adapter):
        layers, into, out = kernels[*path[:-1], "kernel"]
        axes[path] = (layers, into, None) if path[-1] == "a" else (layers, None, out)
    return traverse_util.unflatten_dict(axes)


def _adapter_size(params: Mapping, adapter: Mapping, rank: int) -> int:
    """r (in + out) for every adapted kernel of every layer (Hu et al. 2021, section 4.2)."""
    flat = traverse_util.flatten_dict(params)
    kernels = [
        flat[*path[:-1], "kernel"]
        for path in traverse_util.flatten_dict(adapter)
        if path[-1] == "a"
    ]
    return sum(k.shape[0] * rank * (k.shape[1] + k.shape[2]) for k in kernels)


def operations(
    lm: LanguageModel, fields: ConfigDict, trained: Any, passes: int = 0, updates: int = 1
) -> Callable[[Mapping[str, Any]], float]:
    """Batch of this process -> floating point operations of its step over all processes, see
    `models.llama.flops`.

    Args:
      passes: forward passes without gradient, as a reference takes.
      updates: optimizer steps on one batch.
    """
    adapter = 0 if fields.full_finetuning else lora.count(trained)

    def of(batch: Mapping[str, Any]) -> float:
        *rows, T = batch["ids"].shape
        one = flops.forward(lm.config, math.prod(rows) * jax.process_count(), T, T, T, adapter)
        return updates * flops.training_step(one, fields.full_finetuning) + passes * (
            one.total - one.adapters
        )

    return of


# -------------------------------------------------------------------------- beginning and finishing


def identity(
    name: str, fields: ConfigDict, seed: int, lm: LanguageModel, path: str | os.PathLike
) -> dict:
    """What makes a training this one and no other: its section, seed, data and the shape of its
    model."""
    about = {
        "stage": name,
        "seed": seed,
        "data": tfds_builders.data_digest(path),
        "model": dataclasses.asdict(lm.config),
    }
    return _plain(
        about
        | {
            field: value
            for field, value in dataclasses.asdict(fields).items()
            if field not in FREE_FIELDS
        }
    )


def finished(folder: Path, about: dict) -> bool:
    """Whether the booster of the training `about` is in `folder`.

    Raises:
      BadInput: checkpoints or a booster of another training are.
    """
    done, path = (folder / "booster").is_dir(), folder / "training.json"
    if path.exists() and (done or any((folder / "checkpoints").glob("*"))):
        before = read_json(path)
        if changed := sorted(k for k in {*about, *before} if about.get(k) != before.get(k)):
            was, now = before.get(changed[0]), about.get(changed[0])
            raise BadInput(
                f"{path}: this folder holds a training with {changed[0]}={was!s:.80}, now it is"
                f" {now!s:.80}; use another --workdir, or delete checkpoints and booster in"
                f" {folder.name}"
            )
    return done


def claim(folder: Path, about: dict) -> None:
    """Ties `folder` to the training `about`; called when everything that could be refused was
    accepted."""
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "training.json", about)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def save_booster(lm: LanguageModel, state: TrainState, fields: ConfigDict, folder: Path) -> Path:
    """Merges the adapter and writes `folder/booster`, which appears whole, in the base model's
    dtype; before it, unless all parameters were trained, `folder/adapter` for PEFT."""
    if fields.full_finetuning:
        params = jax.tree.map(
            lambda new, old: new.astype(old.dtype), state.trained["params"], lm.params
        )
    else:
        params = quantized.plain(lm.params, lm.model.dtype)
        params = lora.merge(params, state.trained["lora"], lora_config(fields))
    params, adapter = processes.gather_to_host((params, state.trained.get("lora")))
    booster, part = folder / "booster", folder / "booster.part"
    if jax.process_index() == 0:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped while saving
        try:
            if not fields.full_finetuning:
                adapted = lm.with_lora(adapter, lora_config(fields))
                adapted = dataclasses.replace(adapted, path=_base_name(lm, folder / "adapter"))
                adapted.save_pretrained(folder / "adapter", merge_adapter=False)
            lm.with_params(params).save_pretrained(part)
            os.replace(part, booster)
        except OSError as error:
            raise BadInput(
                f"{booster}: could not be written ({error.strerror or error}); make room and run"
                " the same command again, the training itself is saved"
            ) from error
    processes.barrier("booster")
    return booster


def _base_name(lm: LanguageModel, adapter: Path) -> str:
    """How an adapter calls the model it belongs to, so that a work directory can move: mini:NAME, a
    path from the adapter's folder to a booster of the same work directory, a hub id; other folders
    by their whole path.
    """
    path = Path(lm.path or lm.name)
    if path.parent == embedded.CHECKPOINTS:
        return embedded.PREFIX + path.name
    work = adapter.resolve().parents[1]
    return os.path.relpath(path, adapter.resolve()) if path.is_relative_to(work) else str(path)


def reporter(name: str, steps: int, progress: Progress | None) -> Report:
    """Reports steps to a task of its own in the caller's progress display, or to nobody."""
    if progress is None:
        return lambda done, text: None
    task = progress.add_task(name, total=steps)
    return lambda done, text: progress.update(task, completed=done, description=f"{name}: {text}")
