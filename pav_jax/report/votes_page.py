"""The page for blind human votes: two videos of a prompt, side by side without systems' names.

A page is one file that opens offline. Which system made which of its videos is in a key in the work
directory, `votes/<page>.json`; `votes` reads exported votes with it.
"""

import base64
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from markupsafe import Markup

from pav_jax.errors import BadInput
from pav_jax.records import Measurement, candidate_key, stable_seed
from pav_jax.redaction import redact
from pav_jax.report.contents import CONTROLS
from pav_jax.report.page import last_booster, template_environment
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import read_jsonl
from pav_jax.storage.saved_videos import read_saved_video
from pav_jax.typed_fields import Length, Range

FOLDER = "votes"  # of the keys
NUM_COMPARISONS = 40  # about ten minutes of a voter's time
MAX_VIDEO_BYTES = 2**28  # of all videos of a page; browsers hold the page in memory
ID_DIGITS = 16

# A comparison: the measurements of one prompt, with the same seed, of two systems.
Pair = tuple[Measurement, Measurement]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison in a key: whose the two videos of a prompt are.

    Attributes:
      set: the prompt set.
      prompt: of the user.
      seed: of the videos.
      videos: what the page calls a video -> the system that made it.
    """

    set: str
    prompt: str
    seed: Annotated[int, Range(0)]
    videos: dict[str, str]


@dataclasses.dataclass(frozen=True)
class VotesKey:
    """The content of `votes/<page>.json`.

    Attributes:
      systems: in the order of the evaluation.
      comparisons: by what the page calls them.
    """

    systems: Annotated[tuple[str, ...], Length(2)]
    comparisons: dict[str, Comparison]


def write_votes_page(
    workdir: str | os.PathLike,
    systems: Sequence[str] = (),
    num_comparisons: int = NUM_COMPARISONS,
) -> AnyPath:
    """Write `<workdir>/report/votes.html` and its key, `<workdir>/votes/<page>.json`.

    The same arguments and measurements give the same page, whose votes stay valid.

    Args:
      workdir: of an evaluation whose videos were saved; local or on an object store.
      systems: to compare with each other; empty: original and the last booster.
      num_comparisons: at most; each two systems get the same share, of evenly spaced prompts.

    Returns:
      The path of the page.

    Raises:
      BadInput: there are no videos of these systems to compare, or they are too large for a page.
    """
    folder = as_path(workdir)
    measurements = read_jsonl(folder / "evaluation" / "measurements.jsonl", Measurement)
    systems = _choose_systems(measurements, systems)
    pairs = _choose_pairs(measurements, systems, num_comparisons)
    if not pairs:
        raise BadInput(
            f"{folder}: no prompt has saved videos of two of {', '.join(systems)} that differ;"
            " evaluate with --config.evaluate.save_videos=True",
            source=folder,
        )
    videos = {
        video_id(m): video
        for m in itertools.chain.from_iterable(pairs)
        if (video := read_saved_video(folder, m.video or "")) is not None
    }
    pairs = [pair for pair in pairs if all(video_id(m) in videos for m in pair)]
    _check_videos(folder, pairs, videos)
    comparisons = {_comparison_id(pair): pair for pair in pairs}
    page = hashlib.blake2b("".join(comparisons).encode(), digest_size=ID_DIGITS // 2).hexdigest()
    key = _key(systems, comparisons)
    write_json(folder / FOLDER / f"{page}.json", dataclasses.asdict(key))
    path = folder / "report" / "votes.html"
    write_atomic(path, _render(page, comparisons, videos).encode("utf-8", "replace"))
    return path


def _choose_systems(measurements: Sequence[Measurement], systems: Sequence[str]) -> list[str]:
    """The systems to compare, in the order of the evaluation."""
    evaluated = list(dict.fromkeys(m.system for m in measurements))
    for name in systems:
        if name not in evaluated:
            raise BadInput(
                f"--systems: {name!r} was not evaluated; there are {', '.join(evaluated)}",
                source="--systems",
            )
    booster = last_booster(evaluated)
    chosen = set(systems or ("original", booster or "original"))
    if len(chosen) < 2:
        others = ", ".join(name for name in evaluated if name not in CONTROLS)
        raise BadInput(f"--systems: name two or more of {others}", source="--systems")
    return [name for name in evaluated if name in chosen]


def _choose_pairs(
    measurements: Sequence[Measurement], systems: Sequence[str], num_comparisons: int
) -> list[Pair]:
    """Evenly spaced prompts of each pair of systems, with the first seed of each prompt.

    Two systems whose videos of a prompt are the same, as after a rewrite that changed nothing, are
    not compared on it.
    """
    first: dict[tuple[str, str], dict[str, Measurement]] = {}
    for m in measurements:
        first.setdefault((m.set, m.prompt), {}).setdefault(m.system, m)
    system_pairs = list(itertools.combinations(systems, 2))
    if num_comparisons < len(system_pairs):
        raise BadInput(
            f"--comparisons={num_comparisons}: {len(systems)} systems are"
            f" {len(system_pairs)} pairs; at least one comparison for each",
            source="--comparisons",
        )
    chosen = []
    for one_name, other_name in system_pairs:
        pairs = []
        for by_system in first.values():
            if {one_name, other_name} <= by_system.keys():
                pair = (by_system[one_name], by_system[other_name])
                is_saved = all(m.video for m in pair)
                if is_saved and pair[0].video != pair[1].video and pair[0].seed == pair[1].seed:
                    pairs.append(pair)
        count = min(len(pairs), num_comparisons // len(system_pairs))
        chosen += [pairs[i * len(pairs) // count] for i in range(count)]
    return chosen


def _check_videos(folder: AnyPath, pairs: Sequence[Pair], videos: Mapping[str, bytes]) -> None:
    if not pairs:
        raise BadInput(f"{folder}: the saved videos were deleted; evaluate again", source=folder)
    size = sum(map(len, videos.values()))
    if size > MAX_VIDEO_BYTES:
        fewer = max(1, len(pairs) * MAX_VIDEO_BYTES // size)
        raise BadInput(
            f"--comparisons: the videos of {len(pairs)} comparisons have {size >> 20} MiB, and a"
            f" page holds {MAX_VIDEO_BYTES >> 20}; use --comparisons={fewer}",
            source="--comparisons",
        )


def video_id(measurement: Measurement) -> str:
    """What the page calls a video: digits that do not tell its system."""
    m = measurement
    return candidate_key(m.prompt, m.refined, m.seed, f"vote {m.set} {m.system}")[:ID_DIGITS]


def _comparison_id(pair: Pair) -> str:
    text = "".join(sorted(map(video_id, pair)))
    return hashlib.blake2b(text.encode(), digest_size=ID_DIGITS // 2).hexdigest()


def _key(systems: Sequence[str], comparisons: Mapping[str, Pair]) -> VotesKey:
    entries = {
        name: Comparison(m.set, m.prompt, m.seed, {video_id(m): m.system, video_id(n): n.system})
        for name, (m, n) in comparisons.items()
    }
    return VotesKey(tuple(systems), entries)


def _shuffled(comparisons: Mapping[str, Pair]) -> Iterator[dict[str, Any]]:
    """Comparisons in an order that does not tell the systems; each voter gets one of their own."""
    for name in sorted(comparisons):
        ids = sorted(map(video_id, comparisons[name]), key=lambda i: stable_seed(name, i))
        yield {"id": name, "prompt": redact(comparisons[name][0].prompt), "videos": ids}


def _render(page: str, comparisons: Mapping[str, Pair], videos: Mapping[str, bytes]) -> str:
    environment, loader = template_environment()
    style, page_style, script = (
        loader.get_source(environment, name)[0] for name in ("style.css", "votes.css", "votes.js")
    )
    return environment.get_template("votes.html.j2").render(
        style=Markup(style + page_style),
        script=Markup(script),
        # the page's policy allows no other script, whatever a prompt contains
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        page={"id": page, "comparisons": list(_shuffled(comparisons))},
        videos={name: base64.b64encode(videos[name]).decode() for name in sorted(videos)},
    )
