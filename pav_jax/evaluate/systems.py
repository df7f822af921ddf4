"""Systems under comparison: each turns prompts into the texts that the generator is given.

The texts are recorded, so that a system is asked once per prompt and seed.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import jax
from etils import epath

from pav_jax.booster.booster import Booster
from pav_jax.checkpoints.digest import add_file
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import Refinement
from pav_jax.storage.records import SegmentWriter, read_segments

PROMPTS_PER_SEGMENT = 64

# A system is None (the prompt as it is), a Booster, a callable (prompts, seed) -> texts, the folder
# of a booster, or a .jsonl file of rewrites.
System = Any
Ask = Callable[[Sequence[str], int], Sequence[str]]


@runtime_checkable
class Refiner(Protocol):
    """What a booster does for the evaluation."""

    def refine(
        self, prompts: Sequence[str], *, num_return_sequences: int, seed: int
    ) -> list[list[Refinement]]:
        """Return `num_return_sequences` rewrites per prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """What a system made of one prompt with one seed.

    Attributes:
      key: of the system's fingerprint, the prompt and the seed.
    """

    key: str
    system: str
    prompt: str
    seed: int
    refined: str


class Rewrites:
    """The recorded texts of all systems.

    Args:
      folder: where the segments go.
    """

    def __init__(self, folder: str | os.PathLike):
        self._writer = SegmentWriter(folder, jax.process_index())
        self._texts: dict[str, str] = {}  # key of a rewrite -> text
        self._read()

    def _read(self) -> None:
        self._texts = {r.key: r.refined for r in read_segments(self._writer.folder, Rewrite)}

    def of(
        self, name: str, system: System, prompts: Sequence[str], seeds: Sequence[int]
    ) -> dict[tuple[str, int], str]:
        """Return (prompt, seed) -> text; the processes share the work.

        An empty rewrite becomes the prompt itself.

        Raises:
          BadInput: the system cannot be used, or returns another number of texts.
        """
        if system is None:
            return {(p, seed): p for p in prompts for seed in seeds}
        system_fingerprint = fingerprint(name, system)
        keys = {(p, seed): _key(system_fingerprint, p, seed) for p in prompts for seed in seeds}
        ask: Ask | None = None
        # whole batches from the start of the list, so that a restart asks for the same batches
        starts = range(0, len(prompts), PROMPTS_PER_SEGMENT)
        batches = [(seed, start) for seed in seeds for start in starts]
        for seed, start in processes.shard_for_process(batches):
            batch = list(prompts[start : start + PROMPTS_PER_SEGMENT])
            if all(keys[p, seed] in self._texts for p in batch):
                continue
            ask = ask or _load(name, system)
            texts = ask(batch, seed)
            if len(texts) != len(batch):
                raise BadInput(
                    f"evaluate.systems: {name} gave {len(texts)} rewrites for {len(batch)} prompts",
                    source="configuration",
                    field="evaluate.systems",
                )
            rewrites = [
                Rewrite(keys[p, seed], name, p, seed, text.strip() or p)
                for p, text in zip(batch, texts, strict=True)
            ]
            self._writer.write(rewrites)
            self._texts |= {r.key: r.refined for r in rewrites}
        processes.call_after_barrier(f"rewrites of {name}", self._read)
        return {pair: self._texts[key] for pair, key in keys.items()}


def _load(name: str, system: System) -> Ask:
    if isinstance(system, str | os.PathLike):
        if os.fspath(system).endswith(".jsonl"):
            return _from_file(system)
        system = Booster.from_pretrained(os.fspath(system))
    if isinstance(system, Refiner):
        return lambda prompts, seed: [
            refinement.refined
            for refinement, *_ in system.refine(prompts, num_return_sequences=1, seed=seed)
        ]
    if callable(system):
        return cast(Ask, system)
    raise BadInput(
        f"evaluate.systems: {name} is of type {type(system).__name__}; give a booster, its folder,"
        " or a .jsonl file",
        source="configuration",
        field="evaluate.systems",
    )


def _from_file(path: str | os.PathLike) -> Ask:
    """Read objects with `prompt` and `refined`, as `pav refine --json` prints them.

    The rewrites are the same for every seed.
    """
    rewrites: dict[str, str] = {}
    for number, line in enumerate(epath.Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rewrites.setdefault(" ".join(row["prompt"].split()), row["refined"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            place = f"{path}:{number}"
            raise BadInput(
                f"{place}: needs an object with `prompt` and `refined`", source=place
            ) from error

    def ask(prompts: Sequence[str], seed: int) -> list[str]:
        missing = [p for p in prompts if p not in rewrites]
        if missing:
            raise BadInput(
                f"{path}: {len(missing)} prompts have no rewrite, the first is {missing[0]!r}",
                source=path,
            )
        return [rewrites[p] for p in prompts]

    return ask


def fingerprint(name: str, system: System) -> str:
    """Return what changes when the system's texts may change.

    It comes from the files of a path, else from the system's own `fingerprint`, if it has one.

    Raises:
      BadInput: the path does not exist.
    """
    if not isinstance(system, str | os.PathLike):
        return f"{name}:{getattr(system, 'fingerprint', '')}"
    path = epath.Path(system)
    if not path.exists():
        raise BadInput(
            f"{system}: no such file or folder, but evaluate.systems names {name}; run its stage"
            " first",
            source=path,
        )
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_dir():  # a checkpoint's files are all at the top
            digest.update(file.name.encode())
            add_file(digest, file, whole=True)
    return digest.hexdigest()


def _key(system_fingerprint: str, prompt: str, seed: int) -> str:
    text = json.dumps([system_fingerprint, prompt, seed])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def systems_named(
    names: Sequence[str],
    rewrite_files: Mapping[str, str],
    base: System,
    workdir: str | os.PathLike,
    chat_proposers: Mapping[str, System] | None = None,
) -> dict[str, System]:
    """Return the systems of `evaluate.systems` and `evaluate.rewrite_files`, in that order.

    Args:
      base: the system "base": the rewriter before any training.
      chat_proposers: chat models of the configuration by name, each asked for one rewrite.

    Raises:
      BadInput: an unknown name.
    """
    workdir = epath.Path(workdir)
    available: dict[str, System] = {"original": None, "base": base, **(chat_proposers or {})}
    available |= {stage: workdir / stage / "booster" for stage in ("sft", "grpo")}
    available |= rewrite_files
    systems = {}
    for name in dict.fromkeys([*names, *rewrite_files]):
        stage, _, number = name.rpartition("_")
        if name in available:
            systems[name] = available[name]
        elif stage == "dpo" and number.isdigit():
            systems[name] = workdir / f"round_{number}" / "booster"
        else:
            raise BadInput(
                f"evaluate.systems: there is no system {name!r}; there are original, base, sft,"
                " dpo_1, dpo_2, grpo, the chat entries of proposers and the names in"
                " evaluate.rewrite_files",
                source="configuration",
                field="evaluate.systems",
            )
    return systems


def check_systems(systems: Mapping[str, System]) -> None:
    """Check that the boosters of all stages exist.

    Raises:
      BadInput: a folder has no booster yet.
    """
    for name, system in systems.items():
        if isinstance(system, os.PathLike) and not (epath.Path(system) / "config.json").exists():
            raise BadInput(
                f"{system}: no booster here yet for evaluate.systems {name!r}; run its stage first",
                source=os.fspath(system),
                field="evaluate.systems",
            )
