"""The pages regenerated from results, without measuring anything."""

import importlib
import json
import pathlib

import pytest

from benchmarks import pages

ORIGIN = {
    "command": "python benchmarks/x.py",
    "cores": 2,
    "cpu": "A CPU",
    "date": "2026-01-02",
    "commit": "abc",
}
SCORE = ORIGIN | {
    "rows": [
        {
            "name": "AES",
            "videos": 8,
            "flops": 1e9,
            "ours": 2.0,
            "theirs": 4.0,
            "difference": 1e-6,
        }
    ]
}
PAGE = "Before.\n\n| what |\n|---|\n| <!-- result: score -->old<!-- end: score --> |\n\nAfter.\n"


def test_regenerate_replaces_only_parts_with_results():
    text = pages.regenerate(PAGE, {"score": SCORE})
    assert text.startswith("Before.\n") and text.endswith(" |\n\nAfter.\n") and "old" not in text
    assert "AES 4 and 2 (2.0 times; 4 and 2 GFLOP/s; difference 1e-06)" in text
    assert "`python benchmarks/x.py`, 2 cores, A CPU, 2026-01-02, commit `abc`" in text
    assert pages.regenerate(text, {"score": SCORE}) == text
    assert pages.regenerate(PAGE, {"evolve": ORIGIN}) == PAGE


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- result: score -->", "no counterpart"),
        ("<!-- result: score --><!-- end: train -->", "no counterpart"),
        ("<!-- result: other --><!-- end: other -->", "nothing writes the result other"),
    ],
)
def test_regenerate_broken_marker(text, message):
    with pytest.raises(ValueError, match=message):
        pages.regenerate(text, {}, "page.md")


def test_write_pages_of_the_documentation_are_current(tmp_path):
    """docs/ has what its results say: nobody edited a measured part by hand."""
    docs = pathlib.Path(__file__).parents[2] / "docs"
    results = pages.read_results(docs / "results")
    assert results, "docs/results has no result"
    for name in ("results.md",):
        (tmp_path / name).write_text((docs / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert pages.write_pages(tmp_path, results) == []


def test_read_results_by_name(tmp_path):
    (tmp_path / "score.json").write_text(json.dumps(SCORE), encoding="utf-8")
    assert pages.read_results(tmp_path) == {"score": SCORE}


def test_measure_all_failure_keeps_other_results(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    runner = importlib.import_module("all")
    write = "import pathlib, sys; pathlib.Path(sys.argv[1][7:]).write_text('{}'); print('measured')"
    chosen = {
        "broken": runner.Benchmark(('python -c "raise SystemExit(3)"',)),
        "whole": runner.Benchmark((f'python -c "{write}"',)),
    }
    assert runner.measure_all(chosen, tmp_path, tmp_path / "logs", again=False) == ["broken"]
    assert [file.name for file in tmp_path.glob("*.json")] == ["whole.json"]
    assert (tmp_path / "logs" / "whole.log").read_text() == "measured\n"


def test_is_measured_only_of_this_commit_and_command(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    runner = importlib.import_module("all")
    monkeypatch.setattr(runner, "commit", lambda: "abc")
    file = tmp_path / "score.json"
    assert not runner.is_measured(file, ORIGIN["command"])
    file.write_text(json.dumps(SCORE), encoding="utf-8")
    assert runner.is_measured(file, ORIGIN["command"])
    assert not runner.is_measured(file, "python benchmarks/other.py")
    monkeypatch.setattr(runner, "commit", lambda: "def")
    assert not runner.is_measured(file, ORIGIN["command"])
