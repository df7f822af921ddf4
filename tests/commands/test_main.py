import pytest

from pav_jax import main as pav
from pav_jax.errors import BadInput, TemporaryFailure
from tests.commands.run_pav import fails, run


@pytest.mark.parametrize(
    "argv, message",
    [
        (["evlute"], "pav evlute: there is no command 'evlute'; did you mean evaluate?"),
        (["--foo"], "unknown option --foo"),
        (["run", "--wordir=x"], "--wordir=x; did you mean --workdir?"),
        (["run", "--config=configs/mini.py"], "--workdir is missing"),
        (["run", "--workdir=w", "--config=none.py"], "--config=none.py: no such file"),
        (
            ["refine", "a", "--config.seed=1"],
            "--config.seed=1: this command takes no configuration",
        ),
        (["refine", "a", "-n0"], "--num-return-sequences=0: must be at least 1"),
        (["refine", "a", "-nx"], "invalid int value: 'x'"),
        (["refine", ""], "empty; write what the video should show"),
        (["refine", "\t\x07 "], "empty"),
        (["refine", "x" * 10_000], "10,000 characters long; the limit is 2,000"),
        (["refine", "a\udcff"], "not UTF-8"),
        (["refine", "a", "--model=nowhere"], "nowhere: no such folder"),
        (["generate", "a", "--format=avi"], "invalid choice: 'avi'"),
        (
            ["generate", "a", "--num-inference-steps=0"],
            "--num-inference-steps=0: must be at least 1",
        ),
        (["score", "a.mp4"], "required: --prompts"),
        (
            ["score", "a.mp4", "b.mp4", "--prompts=x", "--rewards=AES,XX"],
            "there is no score 'XX'",
        ),
        (["export", "--out=x"], "required: --from"),
    ],
)
def test_command_line_invalid(argv, message, capsys):
    assert message in fails(capsys, *argv)


def test_override_invalid(tmp_path, capsys):
    for override, message in (
        ("--config.evolve.ronds=2", "did you mean evolve.rounds?"),
        ("--config.evolve.rounds=x", "evolve.rounds is an integer"),
    ):
        workdir = tmp_path / "w"
        assert message in fails(
            capsys, "run", "--config=configs/mini.py", f"--workdir={workdir}", override
        )
        assert not workdir.exists()


def test_workdir_of_other_configuration(tmp_path, capsys, fake_calls):
    assert (
        run(capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}", "--config.seed=3")[
            0
        ]
        == 0
    )
    other = ("run", "--config=configs/mini.py", f"--workdir={tmp_path}", "--config.seed=4")
    (tmp_path / "pool").mkdir()
    assert "seed = 3" in fails(capsys, *other)
    assert [call[0] for call in fake_calls] == ["run"]
    (tmp_path / "pool").rmdir()
    assert run(capsys, *other)[0] == 0  # there is no result of the first


@pytest.mark.parametrize(
    "error, status",
    [
        (BadInput("x"), 2),
        (TemporaryFailure("x"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_main_exit_status(error, status, capsys, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr(pav, "_run", fail)
    code, out, err = run(capsys, "report")
    assert code == status and out == ""
    assert err.count("\n") == 1 and err.startswith("pav report: ")
