"""The recipe: its order, what it says when a stage is missing, and that it may be killed in every
stage.

The last part runs `configs/smoke.py` on the embedded checkpoints in processes of their own. One
work directory is killed with SIGKILL once in each stage, each time continued by the same command;
another is left alone. Both must end alike.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from pav_jax import components, defaults, recipe
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Preference, Proposal
from pav_jax.storage.records import SegmentWriter, read_segments, write_jsonl
from pav_jax.video import loading
from tests.language.conftest import tiny_language_model
from tests.recipe_witness import REPEATED, STAGES

ROOT = pathlib.Path(__file__).parents[1]

# ---------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    "count, rounds, size",
    [(0, 2, 50), (8, 2, 8), (8, 3, 8), (1000, 2, 50), (0, 3, 33), (0, 1, 100)],
)
def test_each_round_gets_its_own_prompts(count, rounds, size):
    every = [f"prompt {i}" for i in range(100)]
    parts = [recipe.round_prompts(every, count, r, rounds) for r in range(1, rounds + 1)]
    assert [len(part) for part in parts] == [size] * rounds
    assert sum(parts, []) == every[: size * rounds]


def test_a_round_starts_from_the_booster_of_the_one_before(tmp_path):
    for name in ("sft/booster", "round_1/booster"):
        (tmp_path / name).mkdir(parents=True)
    assert components.booster_before(tmp_path, 1) == tmp_path / "sft" / "booster"
    assert components.booster_before(tmp_path, 2) == tmp_path / "round_1" / "booster"
    with pytest.raises(BadInput, match="run `pav dpo --round=2` first"):
        components.booster_before(tmp_path, 3)


@pytest.mark.parametrize(
    "stage, options, made, message",
    [
        ("select", {}, (), "pool: no candidates yet; run `pav evolve` first"),
        ("sft", {}, (), "sft_pairs.jsonl: not there yet; run `pav select` first"),
        ("prefer", {"round": 1}, (), "sft/booster: not there yet; run `pav sft` first"),
        (
            "prefer",
            {"round": 2},
            ("sft/booster",),
            "round_1/booster: not there yet; run `pav dpo --round=1` first",
        ),
        (
            "dpo",
            {"round": 1},
            ("sft/booster",),
            "preferences.jsonl: not there yet; run `pav prefer --round=1` first",
        ),
        (
            "dpo",
            {"round": 1},
            ("round_1/preferences.jsonl",),
            "sft/booster: not there yet; run `pav sft` first",
        ),
        ("grpo", {}, (), "sft/booster: not there yet; run `pav sft` first"),
        ("evaluate", {}, ("sft/booster",), "evaluate.systems 'sft'; run its stage first"),
    ],
)
def test_a_stage_before_its_time_says_which_one_to_run(stage, options, made, message, tmp_path):
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    loaded = types.SimpleNamespace(generator=None, suite=None, rewriter=None)
    parts = {"parts": loaded} if stage in ("select", "prefer", "grpo", "evaluate") else {}
    with pytest.raises(BadInput, match=message):
        getattr(recipe, stage)(defaults.get_config(), tmp_path, **options, **parts)


def test_the_stages_run_in_the_methods_order_on_one_set_of_models(tmp_path, monkeypatch):
    calls, given = [], []

    def noting(name):
        def stage(config, workdir, *rest):
            assert workdir == tmp_path
            given.extend(r for r in rest if isinstance(r, components.Parts))
            calls.append((name, *(r for r in rest if not isinstance(r, components.Parts))))
            return tmp_path / "report" / "index.html" if name == "report" else None

        return stage

    for name in STAGES:
        monkeypatch.setattr(recipe, name, noting(name))
    config = defaults.get_config()
    assert recipe.run(config, tmp_path) == tmp_path / "report" / "index.html"
    assert calls == [
        ("evolve",),
        ("select",),
        ("sft",),
        ("prefer", 1),
        ("dpo", 1),
        ("prefer", 2),
        ("dpo", 2),
        ("evaluate", True),
        ("report",),
    ]
    assert len(given) == 5 and len(set(map(id, given))) == 1


def test_preference_training_tells_first_what_its_pairs_teach(tmp_path, monkeypatch, caplog):
    from pav_jax.train import dpo_trainer as dpo

    monkeypatch.setattr(dpo, "run", lambda *args: caplog.text)
    monkeypatch.setattr(recipe, "load_rewriter", lambda *args: None)
    (tmp_path / "sft" / "booster").mkdir(parents=True)
    texts = [(f"{i}", f"{i} and many more words") for i in range(8)]
    rows = [
        Candidate(
            text, "p", text, 1, 0, (), "sft", 1, {n: 1.0 * long for n in ("AES", "TVA", "TC", "DD")}
        )
        for pair in texts
        for long, text in enumerate(pair)
    ]
    SegmentWriter(tmp_path / "round_1" / "candidates").write(rows)
    learned = [Preference("p", long, short, 4.0) for short, long in texts]
    write_jsonl(tmp_path / "round_1" / "preferences.jsonl", learned)
    said = recipe.dpo(defaults.get_config(), tmp_path)
    assert (
        "dpo, round 1: reward-hacking warnings: chosen rewrites have 5.0 words on average, 5.00"
        " times the 1.0 of" in said
    )


def test_the_generator_gets_the_settings_that_are_set(monkeypatch):
    monkeypatch.setattr(loading, "load_generator", lambda path, **options: (path, options))
    config = defaults.get_config()
    config.generator.path = "some/folder"
    config.generator.num_inference_steps = 3
    config.generator.batch_size = 4
    parts = components.Parts(config)
    assert parts.generator == (
        "some/folder",
        {
            "dtype": "float32",
            "mesh": None,
            "auxiliary_mesh": None,
            "num_inference_steps": 3,
            "batch_size": 4,
            "sequence_attention": "auto",
        },
    )
    assert parts.generator is parts.generator  # loaded once
    chosen = dict(
        scheduler="FlowMatchEulerDiscreteScheduler",
        guidance_start=0.0,
        guidance_stop=0.7,
        cache_threshold=0.3,
        cache_max_skips=2,
        cache_retention=0.1,
    )
    config.generator.update(chosen)
    assert chosen.items() <= components.Parts(config).generator[1].items()


def test_of_many_processes_none_may_be_left_out(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    config = defaults.get_config()
    with pytest.raises(BadInput, match="it must take all, as with --config.mesh.fsdp=-1"):
        components.load_rewriter(config)


def test_the_untuned_rewriter_is_measured_with_the_configurations_sampling():
    config = defaults.get_config()
    config.rewriter.temperature, config.rewriter.max_new_tokens = 0.5, 9
    sampling = components.rewriter_sampling(config)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_new_tokens) == (
        0.5,
        50,
        1.0,
        9,
    )


def test_a_booster_is_sampled_as_the_rewriter_was_measured(tmp_path):
    from pav_jax.booster.booster import Booster

    tiny_language_model().save_pretrained(tmp_path / "base")
    config = defaults.get_config()
    config.rewriter.path, config.rewriter.temperature, config.rewriter.max_new_tokens = (
        str(tmp_path / "base"),
        0.5,
        9,
    )
    components.load_rewriter(config).save_pretrained(tmp_path / "booster")
    assert Booster.from_pretrained(tmp_path / "booster").sampling == components.rewriter_sampling(
        config
    )


def test_the_rewriter_lies_on_the_configurations_mesh(tmp_path):
    tiny_language_model().save_pretrained(tmp_path)
    config = defaults.get_config()
    config.rewriter.path = str(tmp_path)
    alone = components.load_rewriter(config)
    assert alone.mesh is None and alone.batch_size == 16
    config.mesh.fsdp = -1
    spread = components.load_rewriter(config)
    assert spread.mesh.size == jax.device_count()
    config.mesh.update(data=jax.device_count(), fsdp=2)
    with pytest.raises(BadInput, match="needs"):
        components.load_rewriter(config)


# ---------------------------------------------------------------------------------- the whole of it

OVERRIDES: tuple[str, ...] = ()
ORDER = ("evolve", "select", "sft", "prefer 1", "dpo 1", "prefer 2", "dpo 2", "evaluate", "report")
NEEDED = ("generator/model_index.json", "clip/aesthetic_head/config.json", "rewriter/config.json")


def process(*words):
    """Runs Python in the repository; compiled programs are shared between the processes, however
    small."""
    environment = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONFAULTHANDLER": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def smoke(workdir, stage="none", number=0):
    """(exit status, the witness's notes, standard error) of the smoke configuration in
    `workdir`."""
    notes = workdir.with_suffix(".json")
    notes.unlink(missing_ok=True)
    done = process(
        "tests.recipe_witness",
        str(notes),
        stage,
        str(number),
        "run",
        "--config=configs/smoke.py",
        f"--workdir={workdir}",
        *OVERRIDES,
    )
    return done.returncode, json.loads(notes.read_text()) if notes.exists() else None, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(work directory, stage -> paths it changed, in order) of a run that nobody killed."""
    missing = [name for name in NEEDED if not (CHECKPOINTS / name).exists()]
    assert OVERRIDES or not missing, f"the package ships no {missing[0]}"
    workdir = tmp_path_factory.mktemp("recipe") / "undisturbed"
    status, changes, said = smoke(workdir)
    assert status == 0, said[-3000:]
    assert set(changes) == set(ORDER)
    return workdir, changes


def telling(stage, paths):
    """Numbers of the changes where some of the stage's work is finished and some is not."""
    if stage.startswith(
        ("sft", "dpo")
    ):  # the first checkpoint is whole, the second is being written
        return [n for n, path in enumerate(paths, 1) if "/checkpoints/4" in path]
    return range(1 + len(paths) // 2, len(paths) + 1)


@pytest.fixture(
    scope="module",
    params=["telling", *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3))],
)
def killed(request, undisturbed):
    """(work directory, stage -> where it died): killed once in every stage, at a change drawn at
    random, then finished.

    By default the change is a telling one, else (a seed) any.
    """
    rng = np.random.default_rng(0 if request.param == "telling" else request.param)
    plan = {f"{s} {rng.integers(1, 3)}" if s in REPEATED else s for s in STAGES}
    workdir = undisturbed[0].with_name(f"killed_{request.param}")
    deaths = {}
    for stage in sorted(plan, key=ORDER.index):
        paths = undisturbed[1][stage]
        places = telling(stage, paths) if request.param == "telling" else range(1, len(paths) + 1)
        status, where, said = smoke(workdir, stage, int(rng.choice(places)))
        assert status == -signal.SIGKILL, f"{stage}: {where}\n{said[-3000:]}"
        deaths[stage.split()[0]] = where
    status, _, said = smoke(workdir)
    assert status == 0, said[-3000:]
    return workdir, deaths


def records(folder, cls):
    """The set of records; that none was made twice is checked on the way."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    merged = read_segments(folder, cls)
    assert len(lines) == len(merged)
    return merged


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith("tokens_per_second")} for line in lines
    ]


def booster(folder):
    files = sorted(p for p in (folder / "booster").iterdir())
    return {p.name: p.read_bytes() for p in files}, losses(folder)


MADE = {  # what a stage leaves to the stages after it
    "evolve": lambda w: (
        records(w / "pool", Candidate),
        records(w / "pool" / "proposals", Proposal),
    ),
    "select": lambda w: (w / "sft_pairs.jsonl").read_bytes(),
    "sft": lambda w: booster(w / "sft"),
    "prefer": lambda w: [
        (
            records(w / f"round_{r}" / "candidates", Candidate),
            (w / f"round_{r}" / "preferences.jsonl").read_bytes(),
        )
        for r in (1, 2)
    ],
    "dpo": lambda w: [booster(w / f"round_{r}") for r in (1, 2)],
    "evaluate": lambda w: (w / "evaluation" / "measurements.jsonl").read_bytes(),
    "report": lambda w: sorted(p.name for p in (w / "report").iterdir()),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_and_run_again_makes_the_same(stage, undisturbed, killed):
    assert killed[1][stage]["stage"].split()[0] == stage
    assert repr(MADE[stage](killed[0])) == repr(MADE[stage](undisturbed[0])), killed[1][
        stage
    ]  # NaN equals NaN


def test_after_a_kill_in_every_stage_the_evaluation_is_the_same(undisturbed, killed):
    ours, theirs = (
        (workdir / "evaluation.json").read_bytes() for workdir in (killed[0], undisturbed[0])
    )
    assert ours == theirs, killed[1]
    result = json.loads(ours)
    systems = {"original", "base", "sft", "dpo_1", "dpo_2", "suffix", "shuffled", "oracle"}
    assert set(result["sets"]) == {"in_domain", "held_out"}
    assert all(set(found["systems"]) == systems for found in result["sets"].values())


def test_nothing_unfinished_is_left_behind(killed):
    assert not [str(p) for p in killed[0].rglob("*") if p.name.endswith(".part")]


def test_no_record_or_report_holds_a_place_of_this_machine(undisturbed):
    workdir = undisturbed[0]
    for path in (p for p in workdir.rglob("*") if p.suffix in (".json", ".jsonl", ".html")):
        assert str(workdir).encode() not in path.read_bytes(), path


def test_a_work_directory_of_another_configuration_is_refused_untouched(undisturbed):
    workdir = undisturbed[0]
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    done = process(
        "pav_jax.main",
        "run",
        "--config=configs/smoke.py",
        f"--workdir={workdir}",
        *OVERRIDES,
        "--config.seed=5",
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "seed = 0, now it is 5" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
