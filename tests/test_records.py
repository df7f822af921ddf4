"""Records: what is written is read back, whole or not at all."""

import dataclasses
import errno
import json
import math
import os

import numpy as np
import pytest
from etils import epath

from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Preference, PromptPair, candidate_key, stable_seed
from pav_jax.storage.records import SegmentWriter, read_jsonl, read_segments, write_jsonl


def candidate(i: int, **changes) -> Candidate:
    fields = dict(
        key=f"key{i}",
        prompt=f"p{i % 3}",
        refined=f"r{i}",
        round=i // 3,
        index=i % 3,
        parents=("a", "b"),
        proposer="local",
        seed=i,
        scores={"AES": 0.5 * i, "TVA": 1.25},
    )
    return Candidate(**(fields | changes))


def same(a: Candidate, b: Candidate) -> bool:
    return repr(a) == repr(b)  # NaN differs from itself


def test_a_record_survives_writing_and_its_keys_are_the_field_names(tmp_path):
    odd = candidate(
        1,
        prompt="emoji 🎈 \u2028 <b>\t\x07",
        refined='"quoted"\nand broken',
        error="no score: X",
        scores={"AES": np.float32("nan"), "TVA": np.float32(0.1), "DD": math.inf},
        video="videos/x.mp4",
    )
    SegmentWriter(tmp_path).write([odd])
    line = (tmp_path / "0-000000.jsonl").read_text(encoding="utf-8")
    assert list(json.loads(line)) == [f.name for f in dataclasses.fields(Candidate)]
    assert json.loads(line)["scores"] == {"AES": None, "TVA": pytest.approx(0.1), "DD": None}
    (back,) = read_segments(tmp_path, Candidate)
    assert math.isnan(back.scores["AES"]) and back.scores["TVA"] == float(np.float32(0.1))
    assert dataclasses.replace(back, scores={}) == dataclasses.replace(odd, scores={})


def test_segments_are_numbered_on_merged_sorted_and_each_key_is_kept_once(tmp_path):
    rng = np.random.default_rng(0)
    every = [candidate(i) for i in range(12)]
    for process in (0, 3):
        for _ in range(3):
            writer = SegmentWriter(tmp_path, process)
            writer.write([every[i] for i in rng.permutation(12)[:7]])
            writer.write([])
    SegmentWriter(tmp_path).write(every)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        f"{p}-{n:06d}.jsonl" for p, n in [(0, 0), (0, 1), (0, 2), (0, 3), (3, 0), (3, 1), (3, 2)]
    ]
    assert read_segments(tmp_path, Candidate) == sorted(
        every, key=lambda c: (c.prompt, c.round, c.index)
    )


def test_a_record_cut_in_half_at_the_end_of_a_segment_is_left_out(tmp_path):
    SegmentWriter(tmp_path).write([candidate(0), candidate(1)])
    path = tmp_path / "0-000000.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        found = read_segments(tmp_path, Candidate)
        assert len(found) == 1 and same(found[0], candidate(0))
    path.write_bytes(whole[:-1])  # only the line end is missing: nothing is lost
    assert len(read_segments(tmp_path, Candidate)) == 2


def test_a_broken_record_elsewhere_names_file_and_line(tmp_path):
    writer = SegmentWriter(tmp_path)
    writer.write([candidate(i) for i in range(3)])
    path = tmp_path / "0-000000.jsonl"
    lines = path.read_text().splitlines()
    for broken in (
        '{"key": "x", "pro',
        "[1, 2]",
        lines[1].replace('"seed": 1', '"seed": "one"'),
        lines[1].replace('"index"', '"indx"'),
    ):
        path.write_text("\n".join([lines[0], broken, lines[2]]) + "\n")
        with pytest.raises(BadInput, match=r"0-000000\.jsonl:2: "):
            read_segments(tmp_path, Candidate)
    single = tmp_path / "preferences.jsonl"
    write_jsonl(single, [Preference("p", "c", "r", 1.0)])
    single.write_text(single.read_text() + '{"prompt": "half')
    with pytest.raises(BadInput, match=r"preferences\.jsonl:2: "):
        read_jsonl(single, Preference)
    with pytest.raises(BadInput, match="no such file"):
        read_jsonl(tmp_path / "absent.jsonl", Preference)


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_full_disk_is_one_clear_line_and_leaves_what_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [PromptPair("old", "old")])
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*args, **kwargs):
        raise full

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(type(epath.Path(path)), "replace", fail)
    else:
        real = type(epath.Path(path)).open

        class Half:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *args):
                self.file.close()

            def write(self, data):
                self.file.write(data[:5])
                raise full

        monkeypatch.setattr(
            type(epath.Path(path)),
            "open",
            fail if step == "open" else lambda self, mode="r", **k: Half(real(self, mode, **k)),
        )
    with pytest.raises(BadInput, match="no space left on device") as caught:
        write_jsonl(path, [PromptPair("new", "new")])
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_keys_and_seeds_depend_on_every_part_and_on_nothing_else():
    parts = [
        ("p", "r", 1, "f"),
        ("p2", "r", 1, "f"),
        ("p", "r2", 1, "f"),
        ("p", "r", 2, "f"),
        ("p", "r", 1, "f2"),
        ("pr", "", 1, "f"),
    ]
    assert len({candidate_key(*p) for p in parts}) == len(parts)
    assert candidate_key("p", "r", 1, "f") == candidate_key("p", "r", np.int64(1), "f")
    assert stable_seed("evolve", "p", 1) == stable_seed("evolve", "p", 1) == 392354638
    seeds = {stable_seed("evolve", f"p{i}", r) for i in range(500) for r in range(4)}
    assert len(seeds) == 2000 and min(seeds) >= 0 and max(seeds) < 2**31
    assert stable_seed("lone \ud800") == stable_seed("lone \ud800")


def test_pairs_and_preferences_load_with_hugging_face_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pairs = [PromptPair(f"p{i} 🎈", f'r "{i}"\u2028') for i in range(5)]
    preferences = [Preference(f"p{i}", "c", "r", 0.25 * i) for i in range(5)]
    for name, rows in (("sft_pairs", pairs), ("preferences", preferences)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        loaded = datasets.load_dataset(
            "json",
            data_files=str(tmp_path / f"{name}.jsonl"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert [type(rows[0])(**row) for row in loaded] == rows
