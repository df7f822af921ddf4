"""Files and segments of records."""

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Preference, PromptPair
from pav_jax.storage.records import (
    SegmentFolder,
    read_jsonl,
    read_segments,
    write_jsonl,
)


def candidate(i: int) -> Candidate:
    return Candidate(
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


def test_read_segments_merges_sorts_and_drops_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    candidates = [candidate(i) for i in range(12)]
    for process in (0, 3):
        for _ in range(3):
            writer = SegmentFolder(tmp_path, Candidate, process)
            writer.write([candidates[i] for i in rng.permutation(12)[:7]])
            writer.write([])
    SegmentFolder(tmp_path, Candidate).write(candidates)
    names = sorted(path.name for path in tmp_path.iterdir())
    segments = [(0, 0), (0, 1), (0, 2), (0, 3), (3, 0), (3, 1), (3, 2)]
    assert names == [f"{process}-{number:06d}.jsonl" for process, number in segments]
    in_order = sorted(candidates, key=lambda c: (c.prompt, c.round, c.index))
    assert read_segments(tmp_path, Candidate) == in_order


def test_read_segments_no_folder(tmp_path):
    assert read_segments(tmp_path / "absent", Candidate) == []


def test_read_segments_truncated_end(tmp_path):
    SegmentFolder(tmp_path, Candidate).write([candidate(0), candidate(1)])
    path = tmp_path / "0-000000.jsonl"
    data = path.read_bytes()
    second = data.index(b"\n") + 1
    for end in range(second, len(data) - 1):
        path.write_bytes(data[:end])
        assert read_segments(tmp_path, Candidate) == [candidate(0)]
    path.write_bytes(data[:-1])  # only the line end is missing: the record is complete
    assert read_segments(tmp_path, Candidate) == [candidate(0), candidate(1)]


def test_read_segments_broken_record(tmp_path):
    SegmentFolder(tmp_path, Candidate).write([candidate(i) for i in range(3)])
    path = tmp_path / "0-000000.jsonl"
    lines = path.read_text().splitlines()
    for broken in (
        '{"key": "x", "pro',
        "[1, 2]",
        lines[1].replace('"seed": 1', '"seed": "one"'),
        lines[1].replace('"index"', '"indx"'),
    ):
        path.write_text("\n".join([lines[0], broken, lines[2]]) + "\n")
        with pytest.raises(BadInput, match=r"0-000000\.jsonl:2: ") as error:
            read_segments(tmp_path, Candidate)
        assert error.value.source == str(path)


def test_read_jsonl_truncated_or_missing_file(tmp_path):
    path = tmp_path / "preferences.jsonl"
    write_jsonl(path, [Preference("p", "c", "r", 1.0)])
    assert read_jsonl(path, Preference) == [Preference("p", "c", "r", 1.0)]
    path.write_text(path.read_text() + '{"prompt": "half')
    with pytest.raises(BadInput, match=r"preferences\.jsonl:2: "):
        read_jsonl(path, Preference)
    with pytest.raises(BadInput) as error:
        read_jsonl(tmp_path / "absent.jsonl", Preference)
    assert error.value.source == str(tmp_path / "absent.jsonl")


def test_write_jsonl_loads_with_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pairs = [PromptPair(f"p{i} 🎈", f'r "{i}"\u2028') for i in range(5)]
    preferences = [Preference(f"p{i}", "c", "r", 0.25 * i) for i in range(5)]
    for name, records in (("sft_pairs", pairs), ("preferences", preferences)):
        write_jsonl(tmp_path / f"{name}.jsonl", records)
        loaded = datasets.load_dataset(
            "json",
            data_files=str(tmp_path / f"{name}.jsonl"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert [type(records[0])(**row) for row in loaded] == records


def test_segments_in_object_store_listed_and_read_once(store):
    folder = f"{store.address}/segments/pool"
    writer = SegmentFolder(folder, Candidate)
    for i in range(12):
        writer.write([candidate(i)])

    def requests():
        paths = [path for _, path in store.proxy.requests]
        lists = sum("prefix=" in path for path in paths)
        reads = sum(".jsonl" in path and "prefix=" not in path for path in paths)
        store.proxy.requests.clear()
        return lists, reads

    per_read = 2 if store.address.startswith("s3") else 1  # s3fs asks for the size first
    requests()
    segments = SegmentFolder(folder, Candidate)
    assert len(segments.read()) == 12 and requests() == (1, 12 * per_read)
    SegmentFolder(folder, Candidate, process=1).write([candidate(20)])
    requests()
    assert len(segments.update()) == 13 and requests() == (1, per_read)
    segments.write([candidate(30)])
    assert requests()[0] == 0
