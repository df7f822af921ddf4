"""The section `rewards` of a configuration: which entries it names, and checks without loading."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.rewards.registry import KINDS, Entry, parse_entries

CONSTRAINT_ONLY = ("FAITH",)  # constrains what may be chosen; never a term of the weighted sum
# compare frames; undefined for images, videos of one frame
TEMPORAL_SCORES = ("TC", "DD", "FC", "VR_MQ")
BOUNDS = ("weights", "thresholds", "constraints")


@dataclasses.dataclass(frozen=True)
class SuiteEntries:
    """The entries of a configuration's `rewards`, not loaded.

    Attributes:
      optimized: those of `rewards.entries` that may have weights and bounds.
      held_out: those of `rewards.held_out`, and then `by_default`.
      by_default: those of `rewards.entries` that are held out by default: judges over an endpoint
        of whose scores `rewards.weights`, `thresholds` and `constraints` name none.
      skip: scores that are left out.
    """

    optimized: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    by_default: tuple[Entry, ...]
    skip: tuple[str, ...]

    @property
    def has_plugin(self) -> bool:
        """Whether names of scores are available only after an import."""
        return any(entry.names is None for entry in (*self.optimized, *self.held_out))


def read_entries(config: Any) -> SuiteEntries:
    """The entries that a configuration's `rewards` names.

    Raises:
      BadInput: an unknown kind or option, two entries with one score, or none to optimize.
    """
    plain = plain_values(config)
    listed = parse_entries(plain.get("entries") or (), "entries")
    if not listed:
        kinds = ", ".join(KINDS)
        raise bad_field("entries", f"rewards.entries: empty; name at least one of {kinds}")
    check_unique("entries", scores_of(listed))
    named = {
        name
        for field in BOUNDS
        if isinstance(plain.get(field), Mapping)
        for name, value in plain[field].items()
        if value is not None
    }
    by_default = tuple(entry for entry in listed if _is_held_out(entry, named))
    held_out = (*parse_entries(plain.get("held_out") or (), "held_out"), *by_default)
    check_unique("held_out", scores_of(held_out))
    optimized = tuple(entry for entry in listed if entry not in by_default)
    if not optimized:
        name = scores_of(by_default)[0]
        raise bad_field(
            "entries",
            "rewards.entries: judges over an endpoint are held out by default, and there are no"
            f" other entries; add one, or give rewards.weights.{name} a value",
        )
    return SuiteEntries(optimized, held_out, by_default, tuple(plain.get("skip") or ()))


def _is_held_out(entry: Entry, named: set[str]) -> bool:
    is_judge = entry.kind in KINDS and KINDS[entry.kind].held_out_by_default
    return is_judge and not named & set(entry.names or ())


def held_out_notice(entry: Entry) -> str:
    """One line for the user about an entry that is held out by default."""
    names = scores_of([entry])
    return (
        f"{entry.path} is held out: {', '.join(names)} will be recorded and never used for"
        f" selection. To optimize it, give rewards.weights.{names[0]} a value (0: only stages whose"
        " own weights name it do); to be rid of this line, move it to rewards.held_out"
    )


def check_config(config: Any) -> None:
    """Check a configuration's `rewards` without loading anything.

    Names of scores are checked unless a plug-in is among the entries: its names are available
    only after its import.

    Raises:
      BadInput: the first entry, weight or bound that cannot be used.
    """
    plain = plain_values(config)
    entries = read_entries(plain)
    skip = entries.skip
    for field in BOUNDS:
        _check_numbers(f"rewards.{field}", plain.get(field))
    check_faith(plain.get("weights") or {}, "rewards.weights")
    if entries.has_plugin:
        return
    names = scores_of(entries.optimized)
    unknown = sorted(set(skip) - {*names, *scores_of(entries.held_out)} - set(TEMPORAL_SCORES))
    if unknown:
        available = ", ".join(names)
        raise bad_field("skip", f"rewards.skip: no entry gives {unknown[0]}; there are {available}")
    left = [name for name in names if name not in skip]
    if not left:
        raise bad_field("skip", "rewards.skip leaves out every score of rewards.entries")
    for field in BOUNDS:
        check_known(f"rewards.{field}", plain.get(field) or {}, left)


def check_stage(config: Any, stage: str, section: Mapping[str, Any]) -> None:
    """Check a stage's own weights, thresholds and constraints, as `check_config` does.

    Args:
      config: the section `rewards`, which has been checked.
      stage: name of the section; "rewards" is checked for weights that are all 0.
      section: its fields.

    Raises:
      BadInput: the first weight or bound that cannot be used.
    """
    entries = read_entries(config)
    names = [name for name in scores_of(entries.optimized) if name not in entries.skip]
    held_out = scores_of(entries.by_default)
    for field in BOUNDS:
        path = f"{stage}.{field}"
        values = _check_numbers(path, section.get(field))
        if field == "weights" and (values or stage == "rewards"):
            _check_weights(values, path)
        for name in held_out:
            if values.get(name):
                raise invalid(
                    f"{path}.{name}",
                    f"{path}.{name}: {name} is of a judge over an endpoint, which is held out by"
                    f" default; set rewards.weights.{name} too (0: only this stage optimizes it)",
                )
        if not any(entry.names is None for entry in entries.optimized):
            check_known(path, values, names)  # those of plug-ins need an import


def config_reads_video(config: Any) -> bool:
    """`reads_video` of the suite of a configuration's `rewards`, without loading it.

    Raises:
      BadInput: a plug-in cannot be imported.
    """
    entries = read_entries(config)
    return any(
        entry.reads_video
        for entry in (*entries.optimized, *entries.held_out)
        if entry.names is None or not set(entry.names) <= set(entries.skip)
    )


def scores_of(entries: Iterable[Entry]) -> list[str]:
    """The names of the scores of entries; plug-ins, whose names need an import, have none here."""
    return [name for entry in entries for name in entry.names or ()]


def check_unique(field: str, names: Sequence[str]) -> None:
    """Refuse two scores of one name among those of `rewards.<field>`."""
    for i, name in enumerate(names):
        if name in names[:i]:
            raise bad_field(
                field, f"rewards.{field}: two entries give the score {name}; keep one of them"
            )


def _check_numbers(path: str, values: Any) -> Mapping[str, Any]:
    """The weights or bounds in the field `path`; an empty mapping if they are unset."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise invalid(path, f"{path}={values!r}: give a mapping of score names to numbers")
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            raise invalid(f"{path}.{name}", f"{path}.{name}={value!r}: it must be a finite number")
    _check_reachable(path, values.get("FAITH"))
    return values


def _check_reachable(path: str, faith: float | None) -> None:
    """Refuse a bound of FAITH, which is at most 1, that no rewrite can meet."""
    if faith is None or path.endswith("weights"):
        return
    if faith > 1 or (faith == 1 and path.endswith("thresholds")):
        raise invalid(f"{path}.FAITH", f"{path}.FAITH={faith}: FAITH is at most 1; nothing passes")


def _check_weights(weights: Mapping[str, float], path: str) -> None:
    """Check the weights of a configuration: without any, all rewrites would be equally good."""
    check_faith(weights, path)
    if not any(weights.values()):
        raise invalid(
            path, f"{path}={dict(weights)!r}: give at least one score a weight other than 0"
        )


def check_faith(weights: Mapping[str, float], path: str) -> None:
    """Refuse a weight of a score that only constrains."""
    for name in CONSTRAINT_ONLY:
        if weights.get(name):
            raise invalid(
                f"{path}.{name}",
                f"{path}.{name}: {name} is a constraint, not a term of the sum; set"
                f" {path.rpartition('.')[0]}.constraints.{name} instead",
            )


def check_known(path: str, values: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse a weight or bound of a score that no entry gives; 0 and None are not used."""
    for name, value in values.items():
        if value and name not in names:
            raise invalid(
                f"{path}.{name}",
                f"{path}.{name}: no entry gives this score; there are {', '.join(names)}",
            )


def plain_values(config: Any) -> Any:
    """ConfigDicts and tuples in a tree as plain dicts and lists."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {name: plain_values(value) for name, value in config.items()}
    return [plain_values(value) for value in config] if isinstance(config, list | tuple) else config


def bad_field(field: str, message: str) -> BadInput:
    """An error about `rewards.<field>`."""
    return invalid(f"rewards.{field}", message)


def invalid(path: str, message: str) -> BadInput:
    """An error about the field `path` of the configuration."""
    return BadInput(message, source="configuration", field=path)
