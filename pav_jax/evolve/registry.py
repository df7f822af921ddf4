"""Registry of proposer kinds; builds the proposers of a configuration.

An entry of `proposers` has a `kind`: a name in `KINDS`, or `package.module:Name`, a subclass of
`Proposer`. `share` (0 disables it), `first_round` and `last_round` (None for no limit) set how much
and when it is used. All other fields are options of the kind.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from pav_jax.booster.guard import Guard
from pav_jax.config_fields import check_fields, option, parse_options
from pav_jax.errors import BadInput
from pav_jax.evolve.mixture import Mixture, MixtureEntry
from pav_jax.evolve.options import ChatOptions, LexiconOptions, LocalOptions
from pav_jax.evolve.proposer import Faithfulness, Proposer, ProposerContext, ProposerSystem
from pav_jax.plugins import import_plugin, is_plugin

# kind -> (class, imported only when used; dataclass of its options)
KINDS: dict[str, tuple[str, type]] = {
    "chat": ("pav_jax.evolve.chat_proposer:ChatProposer", ChatOptions),
    "local": ("pav_jax.evolve.local_proposer:LocalProposer", LocalOptions),
    "lexicon": ("pav_jax.evolve.lexicon_proposer:LexiconProposer", LexiconOptions),
}


@dataclasses.dataclass(frozen=True)
class MixtureOptions:
    """The fields of an entry that every kind has; see `mixture.MixtureEntry`."""

    share: float = option(1.0, "part of a prompt's new rewrites; 0: off", minimum=0)
    first_round: int = option(1, "in which the proposer is active", minimum=1)
    last_round: int | None = option(None, "in which it is active; None: the last", minimum=1)


MIXTURE_FIELDS = tuple(field.name for field in dataclasses.fields(MixtureOptions))


@dataclasses.dataclass(frozen=True)
class ProposerEntry:
    """A checked entry of the configuration's `proposers`.

    Attributes:
      name: name of the entry.
      kind: a name in `KINDS` or `package.module:Name`.
      options: an instance of the kind's options dataclass.
      share, first_round, last_round: see `MixtureEntry`.
    """

    name: str
    kind: str
    options: Any
    share: float = 1.0
    first_round: int = 1
    last_round: int | None = None


def parse_entry(name: str, entry: Mapping[str, Any]) -> ProposerEntry:
    """Check an entry of `proposers`, without loading a model.

    Raises:
      BadInput: a kind or option is unknown, or a value has the wrong type.
    """
    field = f"proposers.{name}"
    if not isinstance(entry, Mapping | ConfigDict):
        raise BadInput(
            f"{field}={entry!r}: give a mapping of options, such as {{'kind': 'local'}}",
            source="configuration",
            field=field,
        )
    values = {key: entry[key] for key in entry}
    kind = values.pop("kind", name)
    mixture_fields = {key: values.pop(key) for key in MIXTURE_FIELDS if key in values}
    check_fields(MixtureOptions, mixture_fields, field)
    if not isinstance(kind, str):
        kind = repr(kind)
    if kind in KINDS:
        options_type = KINDS[kind][1]
    elif is_plugin(kind):
        options_type = _proposer_class(kind, f"{field}.kind").options
    else:
        raise BadInput(
            f"{field}.kind={kind!r}: choose one of {', '.join(KINDS)}, or name a class as"
            " package.module:Name",
            source="configuration",
            field=f"{field}.kind",
        )
    return ProposerEntry(name, kind, parse_options(options_type, values, field), **mixture_fields)


def parse_entries(entries: Mapping[str, Any]) -> list[ProposerEntry]:
    """Check all entries of `proposers`; see `parse_entry`."""
    return [parse_entry(name, entry) for name, entry in entries.items()]


def check_config(entries: Mapping[str, Any]) -> None:
    """Check the section `proposers` of a configuration, without loading a model.

    Raises:
      BadInput: an entry is invalid, or all of them are switched off.
    """
    if not any(entry.share > 0 for entry in parse_entries(entries)):
        raise BadInput(
            "proposers: no entry has a share above 0; add an entry or raise a share",
            source="configuration",
            field="proposers",
        )


def build(entry: ProposerEntry, context: ProposerContext) -> Proposer:
    """Make the proposer of an entry.

    Raises:
      BadInput: its model or files cannot be used.
    """
    path = KINDS[entry.kind][0] if entry.kind in KINDS else entry.kind
    proposer_class = _proposer_class(path, f"proposers.{entry.name}.kind")
    return proposer_class.from_options(entry.options, context, entry.name)


def build_mixture(
    config: Any,
    load_language_model: Callable[[], Any] | None = None,
    faithfulness: Faithfulness | None = None,
) -> Mixture:
    """Make the mixture of all proposers with a share above 0.

    Args:
      config: the whole configuration; reads `proposers`, `evolve.max_proposal_attempts`,
        `evolve.max_words` and `booster.guard`.
      load_language_model: function that returns the untuned rewriter; called only if needed.
      faithfulness: see `rewards.faithfulness.faithfulness`.

    Raises:
      BadInput: an entry is invalid, or no entry has a share above 0.
    """
    context = ProposerContext(load_language_model, faithfulness)
    entries = [
        MixtureEntry(build(entry, context), entry.share, entry.first_round, entry.last_round)
        for entry in parse_entries(config.proposers)
        if entry.share > 0
    ]
    options = config.evolve
    guard = Guard.from_config(config)
    return Mixture(entries, options.max_proposal_attempts, options.max_words, guard)


def build_chat_proposers(config: Any, names: Sequence[str]) -> dict[str, ProposerSystem]:
    """Make evaluation systems of the chat proposers among `names`, whatever their share.

    Args:
      config: the whole configuration; reads `proposers`.
    """
    entries = {entry.name: entry for entry in parse_entries(config.proposers)}
    return {
        name: ProposerSystem(build(entries[name], ProposerContext()))
        for name in names
        if name in entries and entries[name].kind == "chat"
    }


def _proposer_class(path: str, field: str) -> Any:
    proposer_class = import_plugin(path, field)
    if not isinstance(proposer_class, type) or Proposer not in proposer_class.__mro__:
        raise BadInput(
            f"{field}={path}: not a proposer; give a subclass of pav_jax.Proposer",
            source="configuration",
            field=field,
        )
    return proposer_class
