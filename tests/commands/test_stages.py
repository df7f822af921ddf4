import errno
import logging
import sys

import pytest

from pav_jax.main import main
from tests.commands.run_pav import fails, run


def test_stage_arguments(tmp_path, capsys, fake_calls):
    base = ["--config=configs/mini.py", f"--workdir={tmp_path}"]
    for command in ("run", "evolve", "select", "sft"):
        assert run(capsys, command, *base)[0] == 0
    assert run(capsys, "prefer", *base, "--round=2")[0] == 0
    assert run(capsys, "dpo", *base)[0] == 0
    assert run(capsys, "grpo", *base)[0] == 0
    for flags in ([], ["--controls"], ["--no-controls"]):
        assert run(capsys, "evaluate", *base, *flags)[0] == 0
    for command in ("trust", "calibrate"):
        assert run(capsys, command, *base)[0] == 0
    status, out, _ = run(
        capsys, "report", f"--workdir={tmp_path}"
    )  # the work directory knows its configuration
    assert (status, out) == (0, "the/result\n")
    assert [(c[0], c[3]) for c in fake_calls] == [
        ("run", {}),
        ("evolve", {}),
        ("select", {}),
        ("sft", {}),
        ("prefer", {"round": 2}),
        ("dpo", {"round": 1}),
        ("grpo", {}),
        ("evaluate", {"controls": None}),
        ("evaluate", {"controls": True}),
        ("evaluate", {"controls": False}),
        ("trust", {}),
        ("calibrate", {}),
        ("report", {}),
    ]
    assert fake_calls[-1][1].seed == fake_calls[0][1].seed and fake_calls[0][2] == str(tmp_path)
    assert "--round=3: this configuration has rounds 1 to 2" in fails(
        capsys, "dpo", *base, "--round=3"
    )


def test_report_votes_arguments(tmp_path, capsys, fake_calls):
    base = ["report", "--config=configs/mini.py", f"--workdir={tmp_path}"]
    for flags in (
        ["--votes-page"],
        ["--votes-page", "--systems=base, sft", "--comparisons=3"],
        ["--votes", "a.jsonl", "b.jsonl", "--votes=c.jsonl"],
    ):
        assert run(capsys, *base, *flags)[0] == 0
    assert [(c[0], c[3]) for c in fake_calls] == [
        ("votes_page", {}),
        ("votes_page", {"systems": ["base", "sft"], "num_comparisons": 3}),
        ("report", {"votes": ["a.jsonl", "b.jsonl", "c.jsonl"]}),
    ]
    for flags, message in (
        (["--votes-page", "--comparisons=0"], "--comparisons=0: must be at least 1"),
        (["--votes-page", "--votes=a"], "--votes: not together with --votes-page"),
        (["--systems=sft"], "--systems: add --votes-page"),
    ):
        assert message in fails(capsys, *base, *flags)


def test_stage_log(tmp_path, capsys, monkeypatch):
    def stage(self, workdir):
        logging.getLogger("pav_jax.evolve.evolve").info("round 1: 3.5 videos/s")
        logging.getLogger("somebody.else").info("noise")

    monkeypatch.setattr(sys.modules["pav_jax.recipe"].Recipe, "evolve", stage)
    for _ in range(2):
        _, out, err = run(capsys, "evolve", "--config=configs/mini.py", f"--workdir={tmp_path}")
        assert (out, err) == ("None\n", "round 1: 3.5 videos/s\n")


def failing(error):
    def stage(self, workdir):
        raise error

    return stage


def test_stage_interrupted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["pav_jax.recipe"].Recipe, "run", failing(KeyboardInterrupt()))
    status, _, err = run(capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}")
    assert status == 130 and "run the same command to continue" in err and err.count("\n") == 1


def test_stage_disk_full(tmp_path, capsys, monkeypatch):
    deep = ValueError("could not save")
    deep.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (
        OSError(errno.ENOSPC, "full"),
        deep,
        RuntimeError("write failed: No space left on device"),
    ):
        monkeypatch.setattr(sys.modules["pav_jax.recipe"].Recipe, "run", failing(error))
        assert "no space left" in fails(
            capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}"
        )


def test_stage_unexpected_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pav_jax.recipe"].Recipe, "run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["run", "--config=configs/mini.py", f"--workdir={tmp_path}"])
