"""Reads votes that voters exported from a votes page, and resolves whose videos they are for."""

import codecs
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pav_jax.errors import BadInput
from pav_jax.report.vote_statistics import Verdict, summary
from pav_jax.report.votes_page import FOLDER, Comparison, VotesKey
from pav_jax.storage.addresses import AnyPath, as_path, list_names
from pav_jax.storage.files import read_bounded
from pav_jax.storage.json_files import MAX_JSON_BYTES, parse_json, read_json, write_json
from pav_jax.typed_fields import Range, read_fields

FILE = "votes.json"  # the result, in the work directory
FIX = "export the votes again"
MAX_VOTER_CHARACTERS = 100


@dataclasses.dataclass(frozen=True)
class Vote:
    """One line of an exported file.

    Attributes:
      page: which page was voted on.
      comparison: which of its comparisons.
      voter: who voted; the page draws an identifier at random.
      left, right: what the page calls the videos on the two sides.
      choice: the better one.
      time: of the vote, in milliseconds since 1970.
    """

    page: str
    comparison: str
    voter: str
    left: str
    right: str
    choice: Literal["left", "right", "tie"]
    time: Annotated[int, Range(0)]


def write_votes(workdir: str | os.PathLike, files: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """Write `<workdir>/votes.json`: what the votes in `files` say about the systems.

    Args:
      workdir: whose votes pages were voted on; local or on an object store.
      files: exported by the voters, also on an object store. The same vote in several files counts
        once; of several votes of a voter on a comparison the latest counts.

    Returns:
      The content of the file, see `vote_statistics.summary`.

    Raises:
      BadInput: a file cannot be read, or a vote in it is not for a page of this work directory; the
        message names file, line and field.
    """
    folder = as_path(workdir)
    keys = _read_keys(folder)
    systems = list(dict.fromkeys(name for key in keys.values() for name in key.systems))
    order = {name: i for i, name in enumerate(systems)}
    latest: dict[tuple[str, str, str], tuple[int, Verdict]] = {}
    for file in files:
        for vote, comparison in _read_file(as_path(file), keys, folder):
            name = (vote.page, vote.comparison, vote.voter)
            if name not in latest or latest[name][0] <= vote.time:
                latest[name] = (vote.time, _verdict(vote, comparison, order))
    result = summary([verdict for _, verdict in latest.values()], systems)
    write_json(folder / FILE, result)
    return result


def _read_keys(workdir: AnyPath) -> dict[str, VotesKey]:
    """Page -> its key."""
    keys = {}
    for name in list_names(workdir / FOLDER):
        path = workdir / FOLDER / name
        if path.suffix == ".json":
            key = read_fields(VotesKey, read_json(path), os.fspath(path))
            _check_key(key, path)
            keys[path.stem] = key
    if not keys:
        raise BadInput(
            f"{workdir}: no votes page was written here; start with pav report --votes-page",
            source=workdir,
        )
    return keys


def _check_key(key: VotesKey, path: AnyPath) -> None:
    """Every comparison has a video of each of two systems."""
    for name, comparison in key.comparisons.items():
        systems = set(comparison.videos.values())
        if not len(comparison.videos) == len(systems) == 2 or not systems <= set(key.systems):
            field = f"comparisons.{name}.videos"
            raise BadInput(
                f"{path}: {field} must be of two of the systems; write the page again",
                source=path,
                field=field,
            )


def _read_file(
    path: AnyPath, keys: Mapping[str, VotesKey], workdir: AnyPath
) -> list[tuple[Vote, Comparison]]:
    try:
        data = read_bounded(path, MAX_JSON_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path}: cannot be read ({reason})", source=path) from error
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    votes = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                votes.append(_read_line(line, f"{path}:{number}", keys, workdir))
            except BadInput as error:
                raise BadInput(str(error), source=path, field=error.field) from error
    if not votes:
        raise BadInput(f"{path}: no votes in this file; {FIX}", source=path)
    return votes


def _read_line(
    line: bytes, place: str, keys: Mapping[str, VotesKey], workdir: AnyPath
) -> tuple[Vote, Comparison]:
    vote = read_fields(Vote, parse_json(line, place, FIX), place)
    if vote.page not in keys:
        raise _bad(place, "page", vote.page, f"is no votes page of {workdir}")
    comparisons = keys[vote.page].comparisons
    if vote.comparison not in comparisons:
        raise _bad(place, "comparison", vote.comparison, f"is not on page {vote.page}")
    comparison = comparisons[vote.comparison]
    for field in ("left", "right"):
        if getattr(vote, field) not in comparison.videos:
            raise _bad(place, field, getattr(vote, field), "is no video of this comparison")
    if vote.left == vote.right:
        raise _bad(place, "right", vote.right, "is also on the left")
    if not 0 < len(vote.voter) <= MAX_VOTER_CHARACTERS:
        raise _bad(place, "voter", vote.voter, f"must have 1 to {MAX_VOTER_CHARACTERS} characters")
    return vote, comparison


def _bad(place: str, field: str, value: str, problem: str) -> BadInput:
    shown = value if len(value) <= MAX_VOTER_CHARACTERS else f"{value[:MAX_VOTER_CHARACTERS]}..."
    return BadInput(f"{place}: {field} {shown!r} {problem}; {FIX}", source=place, field=field)


def _verdict(vote: Vote, comparison: Comparison, order: Mapping[str, int]) -> Verdict:
    """A vote for the later of the two systems, or against it."""
    systems = comparison.videos
    later, earlier = sorted(systems.values(), key=order.__getitem__, reverse=True)
    points = 0.5
    if vote.choice != "tie":
        winner = systems[vote.left if vote.choice == "left" else vote.right]
        points = 1.0 if winner == later else 0.0
    return Verdict(
        systems=(later, earlier),
        set=comparison.set,
        prompt=comparison.prompt,
        voter=vote.voter,
        points=points,
        chose_left={"left": True, "right": False, "tie": None}[vote.choice],
    )
