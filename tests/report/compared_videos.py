"""Evaluated systems with saved videos, and votes on them."""

import json

from pav_jax.records import Measurement
from pav_jax.storage.files import write_atomic
from pav_jax.storage.records import write_jsonl

PROMPTS = ("a cat", "قطة على الشاطئ", "</script><script>alert(1)</script>", "a dog", "a red kite")


def write_measurements(folder, systems=("original", "my_booster"), prompts=PROMPTS, video=None):
    """Fill the evaluation of a work directory; `video(system, i)` gives the bytes of a video."""
    measurements = [
        Measurement(
            set="near",
            system=system,
            prompt=prompt,
            seed=3,
            refined=f"{prompt} by {system}",
            scores={},
            overall=0.0,
            video=f"videos/{system}{i}.mp4",
        )
        for i, prompt in enumerate(prompts)
        for system in systems
    ]
    write_jsonl(folder / "evaluation" / "measurements.jsonl", measurements)
    for m in measurements:
        number = int(m.video.removesuffix(".mp4")[-1])
        data = video(m.system, number) if video else m.refined.encode()
        write_atomic(folder / m.video, data)
    return measurements


def read_key(folder):
    """(page, the content of its key); there is one page."""
    (path,) = [path for path in (folder / "votes").iterdir() if path.suffix == ".json"]
    return path.stem, json.loads(path.read_text())


def make_votes(folder, winners, voter="a", time=0):
    """Lines of votes on the first comparisons: for a system, or "tie"; sides alternate."""
    page, key = read_key(folder)
    lines = []
    for i, (name, winner) in enumerate(zip(key["comparisons"], winners, strict=False)):
        videos = key["comparisons"][name]["videos"]
        left, right = sorted(videos, key=videos.__getitem__, reverse=bool(i % 2))
        choice = {videos[left]: "left", videos[right]: "right"}.get(winner, "tie")
        vote = dict(
            page=page,
            comparison=name,
            voter=voter,
            left=left,
            right=right,
            choice=choice,
            time=time,
        )
        lines.append(json.dumps(vote))
    return lines
