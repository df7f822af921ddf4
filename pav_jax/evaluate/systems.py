"""Systems under comparison: each turns prompts into the texts that the generator is given, once,
and records them."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from pav_jax.checkpoints.digest import add_file
from pav_jax.errors import BadInput
from pav_jax.parallel import processes
from pav_jax.storage.records import SegmentWriter, read_segments

BATCH = 64  # prompts between two segments on disk

# A system is None (the prompt as it is), a Booster, a callable (prompts, seed) -> texts, the folder
# of a booster, or a .jsonl file of rewrites.
System = Any


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """What a system made of one prompt with one seed."""

    key: str  # of the system's fingerprint, the prompt and the seed
    system: str
    prompt: str
    seed: int
    refined: str


class Rewrites:
    """The texts of all systems, kept in the segments of `folder`: a system is asked only for what
    is not there."""

    def __init__(self, folder: str | os.PathLike):
        self._writer = SegmentWriter(folder, jax.process_index())
        self._known: dict[str, str] = {}
        self._read()

    def _read(self) -> None:
        self._known = {r.key: r.refined for r in read_segments(self._writer.folder, Rewrite)}

    def of(
        self, name: str, system: System, prompts: Sequence[str], seeds: Sequence[int]
    ) -> dict[tuple[str, int], str]:
        """(prompt, seed) -> text. An empty answer becomes the prompt itself. Many processes share
        the asking."""
        if system is None:
            return {(p, s): p for p in prompts for s in seeds}
        mark = fingerprint(name, system)
        keys = {(p, s): _key(mark, p, s) for p in prompts for s in seeds}
        ask: Callable | None = None
        # whole batches, aligned from the start, so that a restart asks the same questions together
        for seed, first in processes.shard_for_process(
            [(s, i) for s in seeds for i in range(0, len(prompts), BATCH)]
        ):
            batch = list(prompts[first : first + BATCH])
            if all(keys[p, seed] in self._known for p in batch):
                continue
            ask = ask or _asker(name, system)
            texts = ask(batch, seed)
            if len(texts) != len(batch):
                raise BadInput(
                    f"evaluate.systems: {name} gave {len(texts)} rewrites for {len(batch)} prompts"
                )
            rewrites = [
                Rewrite(keys[p, seed], name, p, seed, t.strip() or p)
                for p, t in zip(batch, texts, strict=True)
            ]
            self._writer.write(rewrites)
            self._known |= {r.key: r.refined for r in rewrites}
        processes.call_after_barrier(f"rewrites of {name}", self._read)
        return {pair: self._known[key] for pair, key in keys.items()}


def _asker(name: str, system: System) -> Callable[[Sequence[str], int], list[str]]:
    if isinstance(system, (str, os.PathLike)):
        if os.fspath(system).endswith(".jsonl"):
            return _from_file(system)
        from pav_jax.booster.booster import Booster

        system = Booster.from_pretrained(system)
    if hasattr(system, "refine"):
        return lambda prompts, seed: [
            rewrites[0].refined for rewrites in system.refine(prompts, seed=seed)
        ]
    if callable(system):
        return system
    raise BadInput(
        f"evaluate.systems: {name} is {type(system).__name__}; give a booster, its folder, or a"
        " .jsonl file"
    )


def _from_file(path: str | os.PathLike) -> Callable[[Sequence[str], int], list[str]]:
    """A file of objects with `prompt` and `refined`, as `pav refine --json` prints them; the same
    for every seed."""
    known: dict[str, str] = {}
    for number, line in enumerate(epath.Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            known.setdefault(" ".join(row["prompt"].split()), row["refined"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path}:{number}: needs an object with `prompt` and `refined`"
            ) from error

    def ask(prompts: Sequence[str], seed: int) -> list[str]:
        if missing := [p for p in prompts if p not in known]:
            raise BadInput(
                f"{path}: holds no rewrite of {missing[0]!r}; {len(missing)} prompts are missing"
            )
        return [known[p] for p in prompts]

    return ask


def fingerprint(name: str, system: System) -> str:
    """Changes when the system's answers may change: from its files, its own `fingerprint`, or only
    its name.

    Raises:
      BadInput: a path that is not there.
    """
    if not isinstance(system, (str, os.PathLike)):
        return f"{name}:{getattr(system, 'fingerprint', '')}"
    path = epath.Path(system)
    if not path.exists():
        raise BadInput(
            f"{system}: not there; evaluate.systems names {name}, has its stage been run?"
        )
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_dir():  # a checkpoint's files lie side by side
            digest.update(file.name.encode())
            add_file(digest, file, whole=True)
    return digest.hexdigest()


def _key(mark: str, prompt: str, seed: int) -> str:
    text = json.dumps([mark, prompt, seed])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def systems_named(
    names: Sequence[str],
    files: Mapping[str, str],
    base: System,
    workdir: str | os.PathLike,
    chats: Mapping[str, System] | None = None,
) -> dict[str, System]:
    """The systems of `evaluate.systems` and `evaluate.files`, in that order.

    Args:
      base: what "base" stands for: the rewriter before any tuning.
      chats: chat models of the configuration by their names there, each asked for one rewrite.

    Raises:
      BadInput: a name that is neither known nor in `files`.
    """
    known: dict[str, System] = {"original": None, "base": base, **(chats or {})}
    known |= {stage: epath.Path(workdir) / stage / "booster" for stage in ("sft", "grpo")}
    systems = {}
    for name in dict.fromkeys([*names, *files]):
        stem, _, number = name.rpartition("_")
        if name in files:
            systems[name] = files[name]
        elif stem == "dpo" and number.isdigit():
            systems[name] = epath.Path(workdir) / f"round_{number}" / "booster"
        elif name in known:
            systems[name] = known[name]
        else:
            raise BadInput(
                f"evaluate.systems: there is no system {name!r}; there are original, base, sft,"
                " dpo_1, dpo_2, grpo, the chat entries of proposers and the names in"
                " evaluate.files"
            )
    return systems
