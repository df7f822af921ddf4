"""A reward's fingerprint changes with whatever may change its scores, and with nothing else."""

import shutil

import numpy as np
import pytest

from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.rewards import MPS, Aesthetic, ClipAlignment, Faithfulness, Motion, VideoScore
from pav_jax.rewards.fingerprint import fingerprint
from tests.rewards.test_videoscore import write_videoscore


def test_fingerprint_depends_on_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    first = fingerprint("kind", folder=tmp_path / "a", frames=4)
    assert first == fingerprint("kind", frames=4, folder=tmp_path / "b") and len(first) == 32
    (tmp_path / "b" / "README.md").write_text("not read by any reward")
    assert first == fingerprint("kind", folder=tmp_path / "b", frames=4)
    others = [
        fingerprint(kind, folder=tmp_path / "a", frames=frames)
        for kind, frames in (("other", 4), ("kind", 5))
    ]
    (tmp_path / "b" / "config.json").write_text("{ }")
    others += [fingerprint("kind", folder=tmp_path / "b", frames=4), fingerprint("kind", frames=4)]
    others += [
        fingerprint("kind", weights=np.zeros(2)),
        fingerprint("kind", weights={"w": np.zeros(2)}),
        fingerprint("kind", weights=np.array([0.0, 1])),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_fingerprint_depends_on_code(monkeypatch):
    before = fingerprint("kind")
    monkeypatch.setattr("pav_jax.rewards.fingerprint._code_digest", lambda: "another version")
    assert fingerprint("kind") != before


@pytest.mark.slow
def test_fingerprint_of_every_reward(clip_folder, mps_folder, condition, tmp_path):
    tmp_path.joinpath("query.txt").write_text('Rate "{text_prompt}":\n')
    judge = write_videoscore(tmp_path / "judge")
    made = [
        Aesthetic.from_pretrained(clip_folder),
        Aesthetic.from_pretrained(clip_folder, frames=2),
        Aesthetic.from_pretrained(clip_folder, layout="sheet"),
        ClipAlignment.from_pretrained(clip_folder),
        ClipAlignment.from_pretrained(clip_folder, dtype="bfloat16"),
        Motion(),
        Faithfulness(),
        MPS.from_pretrained(mps_folder),
        MPS.from_pretrained(mps_folder, condition=condition),
        VideoScore.from_pretrained(judge),
        VideoScore.from_pretrained(judge, tmp_path / "query.txt"),
        VideoScore.from_pretrained(judge, frames=3),
    ]
    assert len({reward.fingerprint for reward in made}) == len(made)
    shutil.copytree(judge, tmp_path / "elsewhere")
    assert VideoScore.from_pretrained(tmp_path / "elsewhere").fingerprint == made[9].fingerprint


def test_fingerprint_depends_on_weights(clip_folder, tmp_path):
    before = Aesthetic.from_pretrained(clip_folder).fingerprint
    shutil.copytree(clip_folder, tmp_path / "clip")
    assert Aesthetic.from_pretrained(tmp_path / "clip").fingerprint == before
    head = tmp_path / "head"
    shutil.copytree(clip_folder / "aesthetic_head", head)
    tensors = {name: np.array(tensor) for name, tensor in read_tensors(head).items()}
    next(iter(tensors.values())).flat[0] += 1
    write_tensors(head, tensors)
    assert Aesthetic.from_pretrained(clip_folder, head=head).fingerprint != before
    tensors = {name: np.array(tensor) for name, tensor in read_tensors(clip_folder).items()}
    tensors["logit_scale"] += 1
    shutil.copytree(clip_folder, tmp_path / "warmer")
    write_tensors(tmp_path / "warmer", tensors)
    assert Aesthetic.from_pretrained(tmp_path / "warmer").fingerprint != before
