import csv
import io
import json

import numpy as np

from tests.commands.run_pav import fails, run
from tests.fakes import WordCountReward


def test_score_formats(tmp_path, capsys):
    assert run(capsys, "generate", "a cat", "a dog", f"--out={tmp_path}")[0] == 0
    videos = [str(p) for p in sorted(tmp_path.glob("*.mp4"))]
    status, out, _ = run(capsys, "score", *videos, "--prompts=a [red] cat", "--rewards=AES,TVA")
    assert (
        status == 0
        and "a [red] cat" in out
        and "AES" in out
        and "overall" in out
        and "FAITH" not in out
    )
    (tmp_path / "p.txt").write_text('a cat\na "big" dog, alone\n')
    status, out, _ = run(capsys, "score", *videos, f"--prompts={tmp_path / 'p.txt'}", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["prompt"] for r in rows] == ["a cat", 'a "big" dog, alone']
    assert set(rows[0]["scores"]) == {"AES", "TVA", "FAITH"}
    status, out, _ = run(capsys, "score", *videos, f"--prompts={tmp_path / 'p.txt'}", "--csv")
    assert status == 0 and out.count("\r\n") == 3 and ',"a ""big"" dog, alone",' in out
    read = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["prompt"] for row in read] == ["a cat", 'a "big" dog, alone'] and read[1][
        "video"
    ] == videos[1]
    assert [float(row["AES"]) for row in read] == [row["scores"]["AES"] for row in rows]
    assert "2 prompts for 1 videos" in fails(
        capsys, "score", videos[0], f"--prompts={tmp_path / 'p.txt'}"
    )
    assert "not allowed with" in fails(capsys, "score", videos[0], "--prompts=x", "--json", "--csv")


def test_score_unreadable_file(tmp_path, capsys):
    assert "gone.mp4: no such file" in fails(
        capsys, "score", str(tmp_path / "gone.mp4"), "--prompts=x"
    )
    run(capsys, "generate", "a cat", f"--out={tmp_path}")
    (video,) = map(str, tmp_path.glob("*.mp4"))
    (tmp_path / "text.mp4").write_text("text")
    for form in ("--json", "--csv"):
        status, out, err = run(
            capsys,
            "score",
            str(tmp_path / "text.mp4"),
            video,
            str(tmp_path / "gone.mp4"),
            "--prompts=x",
            form,
        )
        assert status == 2 and video in out and "text.mp4" not in out and "gone.mp4" not in out
        first, second = err.splitlines()
        assert (
            first.startswith("pav score: ")
            and "text.mp4: not a video" in first
            and "gone.mp4: no such" in second
        )


def test_score_nan(tmp_path, capsys, monkeypatch):
    run(capsys, "generate", "a cat", f"--out={tmp_path}")
    (video,) = map(str, tmp_path.glob("*.mp4"))
    monkeypatch.setattr(
        WordCountReward,
        "score",
        lambda self, videos, prompts, refined=None: {
            "AES": np.array([np.nan]),
            "TVA": np.ones(1),
            "FAITH": np.ones(1),
        },
    )
    status, out, _ = run(capsys, "score", video, "--prompts=x", "--json")
    record = json.loads(out)
    assert (
        status == 0
        and record["scores"] == {"AES": None, "TVA": 1.0, "FAITH": 1.0}
        and record["overall"] is None
    )
    assert run(capsys, "score", video, "--prompts=x", "--csv", "--no-cache")[1].endswith(
        ",,1.0,1.0,\r\n"
    )
    assert " nan " not in run(capsys, "score", video, "--prompts=x")[1]


def test_score_cache(tmp_path, capsys, monkeypatch):
    run(capsys, "generate", "a cat", f"--out={tmp_path}")
    (video,) = map(str, tmp_path.glob("*.mp4"))
    num_calls = []
    score = WordCountReward.score
    monkeypatch.setattr(
        WordCountReward, "score", lambda self, *args: num_calls.append(1) or score(self, *args)
    )
    line = ["score", video, "--prompts=x", "--json"]
    for options, calls in (
        ([f"--cache={tmp_path / 'kept'}"], 1),
        ([f"--cache={tmp_path / 'kept'}"], 1),
        (["--no-cache"], 2),
        (["--no-cache"], 3),
        ([], 4),
        ([], 4),
    ):
        status, out, _ = run(capsys, *line, *options)
        assert status == 0 and len(num_calls) == calls and json.loads(out)["prompt"] == "x"
    assert list((tmp_path / "kept").rglob("*.json")) and list(
        (tmp_path / "home" / "pav_jax").rglob("*.json")
    )
    (tmp_path / "in the way").touch()
    status, out, err = run(capsys, *line, f"--cache={tmp_path / 'in the way'}")
    assert status == 0 and json.loads(out) and "scores cannot be cached" in err
