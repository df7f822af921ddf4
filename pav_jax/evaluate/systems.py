"""Systems under comparison: each rewrites prompts into the texts that the generator receives.

The rewrites are recorded, so that a system is called once per prompt and seed.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import jax

from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import OFF, Guard
from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.checkpoints.digest import add_file
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.records import PromptPair, Refinement
from pav_jax.storage.addresses import as_path, is_remote
from pav_jax.storage.folders import is_whole, local_copy
from pav_jax.storage.json_files import parse_json
from pav_jax.storage.records import SegmentFolder
from pav_jax.typed_fields import read_fields

PROMPTS_PER_SEGMENT = 64

# A system is None (the prompt as it is), a Booster, a callable (prompts, seed) -> texts, the folder
# of a booster, or a .jsonl file of rewrites.
System = Any
RewriteFn = Callable[[Sequence[str], int], Sequence["str | Refinement"]]
UNGUARDED = Guard(OFF)


@runtime_checkable
class Refiner(Protocol):
    """The part of Booster that evaluation uses."""

    def refine(
        self, prompts: Sequence[str], *, num_return_sequences: int, seed: int
    ) -> list[list[Refinement]]:
        """Return `num_return_sequences` rewrites per prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class RecordedRewrite:
    """A system's rewrite of one prompt for one seed.

    Attributes:
      key: hash of the system's fingerprint, the prompt and the seed.
      reverted: whether the prompt is unchanged because no rewrite was good enough.
    """

    key: str
    system: str
    prompt: str
    seed: int
    refined: str
    reverted: bool = False


class RewriteStore:
    """Records the rewrites of all systems.

    Args:
      folder: folder of the record segments.
      guard: of the boosters that are loaded.

    Attributes:
      reverted: system -> the (prompt, seed) of its rewrites that are the prompt, because none was
        good enough.
    """

    def __init__(self, folder: str | os.PathLike, guard: Guard = UNGUARDED):
        self.reverted: dict[str, set[tuple[str, int]]] = {}
        self._guard = guard
        self._segments = SegmentFolder(folder, RecordedRewrite, jax.process_index())
        self._rewrites: dict[str, RecordedRewrite] = {r.key: r for r in self._segments.read()}

    def _update(self) -> None:
        self._rewrites = {r.key: r for r in self._segments.update()}

    def get_or_create(
        self,
        name: str,
        system: System,
        prompts: Sequence[str],
        seeds: Sequence[int],
        before_work: Callable[[], None] = lambda: None,
    ) -> dict[tuple[str, int], str]:
        """Return (prompt, seed) -> rewrite; make and record missing ones, shared among processes.

        An empty rewrite is replaced by the prompt itself.

        Args:
          before_work: is called, in all processes, if any rewrite is missing.

        Raises:
          BadInput: the system cannot be used, or returns the wrong number of rewrites.
        """
        self.reverted[name] = set()
        if system is None:
            return {(p, seed): p for p in prompts for seed in seeds}
        system_fingerprint = fingerprint(name, system)
        if self._guard.mode != OFF:
            system_fingerprint += repr(self._guard)
        keys = {(p, seed): _key(system_fingerprint, p, seed) for p in prompts for seed in seeds}
        if not self._rewrites.keys() >= set(keys.values()):
            before_work()
        rewrite: RewriteFn | None = None
        # batches of the complete prompt list, so that a restart makes the same ones
        starts = range(0, len(prompts), PROMPTS_PER_SEGMENT)
        batches = [(seed, start) for seed in seeds for start in starts]
        for seed, start in processes.shard_for_process(batches):
            batch = list(prompts[start : start + PROMPTS_PER_SEGMENT])
            if all(keys[p, seed] in self._rewrites for p in batch):
                continue
            rewrite = rewrite or _load(name, system, self._guard)
            texts = rewrite(batch, seed)
            if len(texts) != len(batch):
                raise BadInput(
                    f"evaluate.systems: {name} returned {len(texts)} rewrites for {len(batch)}"
                    " prompts; it must return exactly one per prompt",
                    source="configuration",
                    field="evaluate.systems",
                )
            rewrites = [
                _recorded(keys[p, seed], name, p, seed, text)
                for p, text in zip(batch, texts, strict=True)
            ]
            self._segments.write(rewrites)
            self._rewrites |= {r.key: r for r in rewrites}
        processes.call_after_barrier(f"rewrites of {name}", self._update)
        self.reverted[name] = {pair for pair, key in keys.items() if self._rewrites[key].reverted}
        return {pair: self._rewrites[key].refined for pair, key in keys.items()}


def _recorded(
    key: str, name: str, prompt: str, seed: int, rewrite: str | Refinement
) -> RecordedRewrite:
    is_text = isinstance(rewrite, str)
    text = (rewrite if is_text else rewrite.refined).strip()
    reverted = not text or (not is_text and rewrite.reverted)
    return RecordedRewrite(key, name, prompt, seed, text or prompt, reverted)


def _load(name: str, system: System, guard: Guard) -> RewriteFn:
    if isinstance(system, str | os.PathLike):
        if os.fspath(system).endswith(".jsonl"):
            return rewrites_from_file(system)
        # in the precision that it was trained in, on every platform
        system = Booster.from_pretrained(os.fspath(system), guard=guard, int8=False)
    if isinstance(system, Refiner):
        return lambda prompts, seed: [
            refinement
            for refinement, *_ in system.refine(prompts, num_return_sequences=1, seed=seed)
        ]
    if callable(system):
        return cast(RewriteFn, system)
    raise BadInput(
        f"evaluate.systems: {name} is of type {type(system).__name__}; give a booster, its folder,"
        " or a .jsonl file",
        source="configuration",
        field="evaluate.systems",
    )


def rewrites_from_file(path: str | os.PathLike) -> RewriteFn:
    """Read a .jsonl file of objects with `prompt` and `refined`, as `pav refine --json` prints.

    Every seed gets the same rewrites.

    Raises:
      BadInput: a line is something else; from the function: a prompt has no rewrite.
    """
    rewrites: dict[str, str] = {}
    text = read_prompt_file(path, "evaluate.rewrite_files", "a .jsonl file of rewrites")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        row = read_fields(PromptPair, parse_json(line, place, "fix the line"), place)
        rewrites.setdefault(" ".join(row.prompt.split()), row.refined.strip())

    def look_up(prompts: Sequence[str], seed: int) -> list[str]:
        missing = [p for p in prompts if p not in rewrites]
        if missing:
            raise BadInput(
                f"{path}: {len(missing)} prompts have no rewrite, the first is {missing[0]!r}; add"
                " them to the file",
                source=path,
            )
        return [rewrites[p] for p in prompts]

    return look_up


def fingerprint(name: str, system: System) -> str:
    """Return a fingerprint that changes whenever the output may change.

    For a path it is a hash of the files; else it is the system's own `fingerprint`, if any.

    Raises:
      BadInput: the path does not exist.
    """
    if not isinstance(system, str | os.PathLike):
        return f"{name}:{getattr(system, 'fingerprint', '')}"
    path = as_path(system)
    if not path.exists():
        raise BadInput(
            f"{system}: no such file or folder for system {name!r}; run the stage that trains it,"
            " or correct its path in evaluate.rewrite_files",
            source=path,
        )
    path = local_copy(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_dir():  # a checkpoint has no nested folders
            digest.update(file.name.encode())
            add_file(digest, file, whole=True)
    return digest.hexdigest()


def _key(system_fingerprint: str, prompt: str, seed: int) -> str:
    text = json.dumps([system_fingerprint, prompt, seed])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def resolve_systems(
    names: Sequence[str],
    rewrite_files: Mapping[str, str],
    base: System,
    workdir: str | os.PathLike,
    chat_proposers: Mapping[str, System] | None = None,
) -> dict[str, System]:
    """Return the systems of `evaluate.systems` and `evaluate.rewrite_files`, in that order.

    Args:
      names: `evaluate.systems`.
      rewrite_files: `evaluate.rewrite_files`: name -> .jsonl file.
      base: the system "base": the rewriter before any training.
      workdir: folder that holds the boosters of the training stages.
      chat_proposers: name -> chat model of the configuration, which writes one rewrite per prompt.

    Raises:
      BadInput: a name is unknown.
    """
    workdir = as_path(workdir)
    available: dict[str, System] = {"original": None, "base": base, **(chat_proposers or {})}
    available |= {stage: workdir / stage / "booster" for stage in ("sft", "grpo")}
    available |= {name: local_file(path) for name, path in rewrite_files.items()}
    systems = {}
    for name in dict.fromkeys([*names, *rewrite_files]):
        stage, _, number = name.rpartition("_")
        if name in available:
            systems[name] = available[name]
        elif stage == "dpo" and number.isdigit():
            systems[name] = workdir / f"round_{number}" / "booster"
        else:
            raise BadInput(
                f"evaluate.systems: unknown system {name!r}; choose from original, base, sft,"
                " dpo_1, dpo_2, grpo, the chat entries of proposers and the names in"
                " evaluate.rewrite_files",
                source="configuration",
                field="evaluate.systems",
            )
    return systems


def _has_booster(folder: os.PathLike) -> bool:
    return is_whole(folder) and (is_remote(folder) or (as_path(folder) / "config.json").exists())


def check_systems(systems: Mapping[str, System]) -> None:
    """Check that the boosters of all stages exist.

    Raises:
      BadInput: a folder has no booster.
    """
    for name, system in systems.items():
        if isinstance(system, os.PathLike) and not _has_booster(system):
            raise BadInput(
                f"{system}: no booster for evaluate.systems {name!r}; run the stage that trains it",
                source=os.fspath(system),
                field="evaluate.systems",
            )
