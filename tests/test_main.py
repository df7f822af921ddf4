"""The command line with fakes in the place of models and stages: what it says, where, and with
which status."""

import csv
import errno
import io
import json
import logging
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

import pav_jax
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.records import Refinement
from pav_jax.video.backend import GeneratorBackend
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import VideoBatch
from tests.fakes import WordCountReward, WordCountSuite

COMMANDS = (
    "refine generate score fvd run evolve select sft prefer dpo grpo evaluate trust calibrate"
    " report export check cache-curve"
).split()


@pytest.fixture(autouse=True)
def no_models(monkeypatch, tmp_path):
    """Modules that would load models are replaced; a test that reaches one sees what it was
    given."""
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    log = logging.getLogger("pav_jax")
    for name, value in (
        ("handlers", []),
        ("propagate", True),
    ):  # what a command changes is put back
        monkeypatch.setattr(log, name, value)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    class Booster:
        @classmethod
        def from_pretrained(cls, path, template=None):
            if path == "nowhere":
                raise BadInput("nowhere: no such folder")
            calls.append(("load", path, template))
            return cls()

        def refine(self, prompts, num_return_sequences=1, seed=0):
            calls.append(("refine", list(prompts), num_return_sequences, seed))
            return [
                [
                    Refinement(p, f"{p}\nin detail {i}", seed, "fake")
                    for i in range(num_return_sequences)
                ]
                for p in prompts
            ]

    class Backend(GeneratorBackend):
        settings = GenerationConfig()
        fingerprint = "0123"

        def generate(self, prompts, *, seed):
            return self.generate_batch(prompts, seed=seed).videos

        def generate_batch(self, prompts, **options):
            calls.append(("generate", list(prompts), options))
            errors = ["no video: HTTP status 500" if "impossible" in p else None for p in prompts]
            options["progress"](len(prompts), len(prompts))
            videos = np.full(
                (len(prompts), 1 if "picture" in prompts[0] else 3, 16, 16, 3), 90, np.uint8
            )
            return VideoBatch(videos, errors)

    def load_generator(path, dtype, batch_size, **settings):
        calls.append(("load", path, dtype, batch_size, *([settings] if settings else [])))
        return Backend()

    class LanguageModel:
        path = "m"

        @classmethod
        def from_pretrained(cls, path, dtype, adapter):
            calls.append(("load", path, dtype, adapter))
            return cls()

        def save_pretrained(self, folder, max_shard_size):
            calls.append(("save", folder, max_shard_size))

    stages = types.SimpleNamespace()
    for name in (
        "run",
        "evolve",
        "select",
        "sft",
        "prefer",
        "dpo",
        "grpo",
        "evaluate",
        "trust",
        "calibrate",
        "report",
    ):

        def stage(config, workdir, name=name, **options):
            calls.append((name, config, workdir, options))
            return "the/result" if name == "report" else None

        setattr(stages, name, stage)

    monkeypatch.setattr(
        "pav_jax.rewards.suite.RewardSuite.from_config",
        lambda config, on_error=None: WordCountSuite(),
    )
    score_with_refined = WordCountReward.score
    monkeypatch.setattr(
        WordCountReward,
        "score",
        lambda self, videos, prompts, refined=None: score_with_refined(
            self, videos, prompts, refined or prompts
        ),
    )
    fakes = {
        "booster.booster": types.SimpleNamespace(Booster=Booster),
        "recipe": stages,
        "video.loading": types.SimpleNamespace(load_generator=load_generator),
        "language.language_model": types.SimpleNamespace(LanguageModel=LanguageModel),
    }
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, f"pav_jax.{name}", module)
        if "." not in name:
            monkeypatch.setattr(pav_jax, name, module, raising=False)
    return calls


def run(capsys, *argv):
    """-> (status, standard output, standard error)"""
    status = main(argv)
    out = capsys.readouterr()
    return status, out.out, out.err


def fails(capsys, *argv):
    """The one line on standard error of a command that must refuse."""
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


# --------------------------------------------------------------------------------------------- help


def test_help_names_every_command_and_gives_examples(capsys):
    for argv in ([], ["--help"]):
        try:
            assert main(argv) == 0
        except SystemExit as stop:
            assert stop.code == 0
        text = capsys.readouterr().out
        assert (
            all(f"    {name} " in text for name in COMMANDS)
            and "pav run --config=configs/mini.py" in text
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"  pav {command}" in text and "examples:" in text


def test_help_loads_no_model_library():
    code = (
        "import sys; from pav_jax.main import main\ntry: main(['run', '--help'])\nexcept"
        " SystemExit: pass\nprint([m for m in ('jax', 'torch', 'transformers', 'matplotlib',"
        " 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------ wrong command lines


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
        (["refine", "x" * 10_000], "10,000 characters long; at most 2,000"),
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
            "there is no reward 'XX' here",
        ),
        (["export", "--out=x"], "required: --from"),
    ],
)
def test_a_wrong_command_line_gets_one_line(argv, message, capsys):
    assert message in fails(capsys, *argv)


def test_an_unknown_field_and_a_wrong_type_are_named(tmp_path, capsys):
    for override, message in (
        ("--config.evolve.ronds=2", "did you mean evolve.rounds?"),
        ("--config.evolve.rounds=x", "evolve.rounds is a whole number"),
    ):
        workdir = tmp_path / "w"
        assert message in fails(
            capsys, "run", "--config=configs/mini.py", f"--workdir={workdir}", override
        )
        assert not workdir.exists()


def test_a_work_directory_of_another_configuration_is_refused(tmp_path, capsys, no_models):
    assert (
        run(capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}", "--config.seed=3")[
            0
        ]
        == 0
    )
    assert "seed = 3" in fails(
        capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}", "--config.seed=4"
    )
    assert [call[0] for call in no_models] == ["run"]


# ------------------------------------------------------------------------------------------- stages


def test_stages_get_configuration_work_directory_and_options(tmp_path, capsys, no_models):
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
    assert [(c[0], c[3]) for c in no_models] == [
        ("run", {}),
        ("evolve", {}),
        ("select", {}),
        ("sft", {}),
        ("prefer", {"round": 2}),
        ("dpo", {"round": 1}),
        ("grpo", {}),
        ("evaluate", {"controls": True}),
        ("evaluate", {"controls": True}),
        ("evaluate", {"controls": False}),
        ("trust", {}),
        ("calibrate", {}),
        ("report", {}),
    ]
    assert no_models[-1][1].seed == no_models[0][1].seed and no_models[0][2] == str(tmp_path)
    assert "--round=3: this configuration has rounds 1 to 2" in fails(
        capsys, "dpo", *base, "--round=3"
    )


def test_what_stages_log_goes_to_standard_error_once(tmp_path, capsys, monkeypatch):
    def stage(config, workdir):
        logging.getLogger("pav_jax.evolve.evolve").info("round 1: 3.5 videos/s")
        logging.getLogger("somebody.else").info("noise")

    monkeypatch.setattr(sys.modules["pav_jax.recipe"], "evolve", stage)
    for _ in range(2):
        _, out, err = run(capsys, "evolve", "--config=configs/mini.py", f"--workdir={tmp_path}")
        assert (out, err) == ("", "round 1: 3.5 videos/s\n")


def failing(error):
    def stage(config, workdir):
        raise error

    return stage


def test_interruption_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["pav_jax.recipe"], "run", failing(KeyboardInterrupt()))
    status, _, err = run(capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}")
    assert status == 130 and "run the same command to go on" in err and err.count("\n") == 1


def test_a_full_disk_gets_one_line_however_deep_it_is(tmp_path, capsys, monkeypatch):
    deep = ValueError("could not save")
    deep.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (
        OSError(errno.ENOSPC, "full"),
        deep,
        RuntimeError("write failed: No space left on device"),
    ):
        monkeypatch.setattr(sys.modules["pav_jax.recipe"], "run", failing(error))
        assert "no space left" in fails(
            capsys, "run", "--config=configs/mini.py", f"--workdir={tmp_path}"
        )


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pav_jax.recipe"], "run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["run", "--config=configs/mini.py", f"--workdir={tmp_path}"])


# ------------------------------------------------------------------------------------------- refine


def test_refine_prints_one_rewrite_a_line_and_says_which_booster(capsys, no_models):
    status, out, err = run(
        capsys, "refine", "a  girl <b>plays</b>", "--num-return-sequences=2", "--seed=5"
    )
    assert (status, out) == (
        0,
        "a girl <b>plays</b> in detail 0\na girl <b>plays</b> in detail 1\n",
    )
    assert "embedded booster" in err
    assert no_models == [("load", None, None), ("refine", ["a girl <b>plays</b>"], 2, 5)]


def test_refine_reads_files_and_standard_input(tmp_path, capsys, monkeypatch, no_models):
    (tmp_path / "p.txt").write_text("\ufeffa cat\r\n\n  a dog 🐕 \n", encoding="utf-8")
    monkeypatch.setattr(
        sys,
        "stdin",
        types.SimpleNamespace(buffer=io.BytesIO(b"from a pipe\n"), isatty=lambda: False),
    )
    status, out, err = run(
        capsys, "refine", str(tmp_path / "p.txt"), "-", "--model=m", "--template=t.jinja", "--json"
    )
    assert status == 0 and err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["prompt"] for r in rows] == ["a cat", "a dog 🐕", "from a pipe"]
    assert set(rows[0]) == {"prompt", "refined", "seed", "model"}
    assert no_models[0] == ("load", "m", "t.jinja")


def test_refine_names_the_line_of_a_bad_prompt(tmp_path, capsys):
    file = tmp_path / "p.txt"
    file.write_bytes(b"fine\n" + b"y" * 3000)
    assert f"{file}:2: 3,000 characters long" in fails(capsys, "refine", str(file))
    file.write_bytes(b"fine\nna\xefve")
    assert f"{file}:2: not UTF-8 text" in fails(capsys, "refine", str(file))
    file.write_bytes(b"\n \n")
    assert "no prompt in it" in fails(capsys, "refine", str(file))
    assert "this is a folder" in fails(capsys, "refine", str(tmp_path))


def test_refine_without_a_prompt_at_a_terminal_asks_for_one(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert "no prompt; give one in quotes" in fails(capsys, "refine")


# ------------------------------------------------------------------------------- generate and score


def test_generate_writes_each_format_and_prints_the_paths(tmp_path, capsys, no_models):
    for kind in ("mp4", "gif", "frames"):
        status, out, err = run(
            capsys,
            "generate",
            "A red ball!",
            "../../etc!",
            f"--out={tmp_path / kind}",
            "--num-inference-steps=3",
            f"--format={kind}",
            "--seed=9",
            "--batch-size=2",
        )
        assert status == 0 and "embedded generator" in err
        paths = sorted((tmp_path / kind).iterdir())
        assert out.splitlines() == [str(p) for p in paths] and len(paths) == 2
        assert paths[0].name.startswith("000-a-red-ball-9") and paths[1].name.startswith(
            "001-etc-9"
        )
    assert no_models[0] == ("load", "mini:generator", "float32", 2)
    assert (
        no_models[1][2]["num_inference_steps"] == 3
        and no_models[1][2]["seed"] == 9
        and no_models[1][2]["guidance_scale"] is None
    )


def test_generate_names_what_could_not_be_made_and_writes_the_rest(tmp_path, capsys):
    status, out, err = run(
        capsys,
        "generate",
        "a cat",
        "impossible",
        "a dog",
        f"--out={tmp_path}",
        "--model=m",
        "--batch-size=2",
    )
    assert status == 2 and err == "pav generate: 'impossible': no video: HTTP status 500\n"
    assert [line.rpartition("/")[2] for line in out.splitlines()] == [
        "000-a-cat-0.mp4",
        "002-a-dog-0.mp4",
    ]


def test_generate_hands_further_options_to_a_back_end(tmp_path, capsys, no_models):
    line = ["generate", "a cat", f"--out={tmp_path}", "--model=http://h/x"]
    assert (
        run(capsys, *line, "--option=model=wan", "--option=eta=0.5", "--option=clean=False")[0] == 0
    )
    assert no_models[0] == (
        "load",
        "http://h/x",
        "bfloat16",
        1,
        {"options": {"model": "wan", "eta": 0.5, "clean": False}},
    )
    assert "--option=eta: write NAME=VALUE" in fails(capsys, *line, "--option=eta")


def test_generate_asks_for_tiles_only_where_told_and_the_file_tells(tmp_path, capsys, no_models):
    from pav_jax.video.files import read_metadata

    assert run(capsys, "generate", "a cat", f"--out={tmp_path}", "--model=m")[0] == 0
    assert no_models[0] == ("load", "m", "bfloat16", 1) and "vae_tiling" not in read_metadata(
        tmp_path / "000-a-cat-0.mp4"
    )
    no_models.clear()
    assert (
        run(capsys, "generate", "a cat", f"--out={tmp_path}", "--model=m", "--vae-tiling")[0] == 0
    )
    assert no_models[0] == ("load", "m", "bfloat16", 1, {"vae_tiling": True})
    assert read_metadata(tmp_path / "000-a-cat-0.mp4")["vae_tiling"] == "True"


def test_generate_hands_on_what_makes_steps_cheaper_and_the_file_tells(tmp_path, capsys, no_models):
    from pav_jax.video.files import read_metadata

    line = [
        "generate",
        "a cat",
        f"--out={tmp_path}",
        "--model=m",
        "--scheduler=CogVideoXDPMScheduler",
    ]
    assert (
        run(
            capsys,
            *line,
            "--guidance-start=0",
            "--guidance-stop=0.7",
            "--cache-threshold=0.3",
            "--cache-max-skips=2",
            "--cache-retention=0.1",
        )[0]
        == 0
    )
    given = {
        "scheduler": "CogVideoXDPMScheduler",
        "guidance_start": 0.0,
        "guidance_stop": 0.7,
        "cache_threshold": 0.3,
        "cache_max_skips": 2,
        "cache_retention": 0.1,
    }
    assert no_models[0] == ("load", "m", "bfloat16", 1, given)
    said = read_metadata(tmp_path / "000-a-cat-0.mp4")
    assert {name: said[name] for name in given} == {
        name: str(value) for name, value in given.items()
    }


def test_generate_writes_an_image_as_png_and_every_file_tells_what_made_it(tmp_path, capsys):
    from pav_jax.video.files import read_metadata

    for kind, name in (
        ("", "000-a-picture-3.png"),
        ("--format=gif", "000-a-picture-3.gif"),
        ("--format=mp4", "000-a-picture-3.mp4"),
        ("--format=frames", "000-a-picture-3/0000.png"),
    ):
        assert (
            run(
                capsys,
                "generate",
                "a picture",
                f"--out={tmp_path}",
                "--seed=3",
                "--num-inference-steps=9",
                "--negative-prompt=dark",
                *kind.split(),
            )[0]
            == 0
        )
        assert (
            read_metadata(tmp_path / name).items()
            >= {
                "prompt": "a picture",
                "negative_prompt": "dark",
                "seed": "3",
                "num_inference_steps": "9",
                "model": "mini:generator",
                "fingerprint": "0123",
                "version": f"pav_jax {pav_jax.__version__}",
            }.items()
        )
    assert (
        "a png holds one frame"
        in run(capsys, "generate", "a cat", "--format=png", f"--out={tmp_path}")[2]
    )


def test_generate_shows_a_bar_with_the_time_left_at_a_terminal_only(tmp_path, capsys, monkeypatch):
    assert "time left" not in run(capsys, "generate", "a cat", f"--out={tmp_path}")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    status, out, err = run(capsys, "generate", "a cat", "a dog", f"--out={tmp_path}")
    assert status == 0 and "time left" in err and "2/2" in err
    assert out.splitlines() == [
        str(p) for p in sorted(tmp_path.glob("*.mp4"))
    ]  # a pipe still gets its paths


def test_score_shows_a_table_json_or_csv(tmp_path, capsys):
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


def test_score_names_what_it_cannot_read_and_shows_the_others(tmp_path, capsys):
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


def test_score_leaves_what_is_not_a_number_empty(tmp_path, capsys, monkeypatch):
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
    found = json.loads(out)
    assert (
        status == 0
        and found["scores"] == {"AES": None, "TVA": 1.0, "FAITH": 1.0}
        and found["overall"] is None
    )
    assert run(capsys, "score", video, "--prompts=x", "--csv", "--no-cache")[1].endswith(
        ",,1.0,1.0,\r\n"
    )
    assert "nan" not in run(capsys, "score", video, "--prompts=x")[1]


def test_score_keeps_scores_where_it_is_told_to(tmp_path, capsys, monkeypatch):
    run(capsys, "generate", "a cat", f"--out={tmp_path}")
    (video,) = map(str, tmp_path.glob("*.mp4"))
    asked = []
    score = WordCountReward.score
    monkeypatch.setattr(
        WordCountReward, "score", lambda self, *args: asked.append(1) or score(self, *args)
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
        assert status == 0 and len(asked) == calls and json.loads(out)["prompt"] == "x"
    assert list((tmp_path / "kept").rglob("*.json")) and list(
        (tmp_path / "home" / "pav_jax").rglob("*.json")
    )
    (tmp_path / "in the way").touch()
    status, out, err = run(capsys, *line, f"--cache={tmp_path / 'in the way'}")
    assert status == 0 and json.loads(out) and "scores cannot be cached" in err


# ------------------------------------------------------------------------------------------- export


def test_export_writes_to_a_new_folder_only(tmp_path, capsys, no_models):
    out = tmp_path / "new"
    assert run(capsys, "export", "--from=m", "--to=hf", f"--out={out}", "--adapter=a")[:2] == (
        0,
        f"{out}\n",
    )
    assert no_models == [("load", "m", "bfloat16", "a"), ("save", out, "5GB")]
    (tmp_path / "something").write_text("")
    assert "already holds something" in fails(capsys, "export", "--from=m", f"--out={tmp_path}")


def test_the_package_offers_what_it_lists_and_says_what_it_lacks():
    assert pav_jax.BadInput is BadInput and pav_jax.Refinement is Refinement
    assert set(pav_jax.__all__) <= set(dir(pav_jax))
    with pytest.raises(AttributeError, match="no attribute 'Bosster'"):
        _ = pav_jax.Bosster
