"""The recipe survives SIGKILL in every stage.

`configs/smoke.py` runs on the embedded rewriter, with a generator and a reward that are no models,
in processes of their own. One work directory is killed with SIGKILL once in each stage, each time
continued by the same command; another is left alone. Both must end with the same files.
"""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.records import Candidate, Proposal
from pav_jax.storage.records import read_segments
from tests.recipe_options import FAKES
from tests.workdir_monitor import REPEATED, STAGES, run_monitored

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow
# campaigns by hand: PAV_STAGE_KILLS=20 pytest -m slow tests/test_recipe_kills.py
RANDOM_SEEDS = range(int(os.environ.get("PAV_STAGE_KILLS", "0")))

ORDER = ("evolve", "select", "sft", "prefer 1", "dpo 1", "prefer 2", "dpo 2", "evaluate", "report")
COMMAND = ["run", f"--config={ROOT}/configs/smoke.py", *FAKES]


@pytest.fixture(scope="module")
def forks():
    """Starts processes that have imported everything, and share all compiled programs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.workdir_monitor", "pav_jax.recipe"])
    with pytest.MonkeyPatch.context() as patch:  # of the server, which is started here
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("PYTHONFAULTHANDLER", "0")
        multiprocessing.forkserver.ensure_running()
    return context


def smoke(forks, workdir, stage="none", number=0):
    """Run the smoke configuration under the monitor.

    Returns:
      (exit status, the monitor's notes, standard error).
    """
    notes, errors = workdir.with_suffix(".json"), workdir.with_suffix(".txt")
    notes.unlink(missing_ok=True)
    arguments = [str(notes), stage, str(number), *COMMAND, f"--workdir={workdir}"]
    process = forks.Process(target=run_monitored, args=(str(errors), *arguments))
    process.start()
    process.join(900)
    assert process.exitcode is not None, errors.read_text()
    return (
        process.exitcode,
        json.loads(notes.read_text()) if notes.exists() else None,
        errors.read_text(),
    )


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    """(work directory, stage -> paths it changed, in order) of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("recipe") / "undisturbed"
    status, changes, stderr = smoke(forks, workdir)
    assert status == 0, stderr[-3000:]
    assert set(changes) == set(ORDER)
    return workdir, changes


def informative_changes(stage, paths):
    """Numbers of the changes at which some of the stage's work is finished and some is not."""
    if stage.startswith(("sft", "dpo")):
        # the first checkpoint is whole, the second is being written
        return [n for n, path in enumerate(paths, 1) if "/checkpoints/4" in path]
    return range(1 + len(paths) // 2, len(paths) + 1)


@pytest.fixture(scope="module", params=["informative", *RANDOM_SEEDS])
def killed(request, forks, undisturbed):
    """(work directory, stage -> where it was killed) of a run killed once in every stage.

    By default the change is drawn from the informative ones, with a seed from all.
    """
    rng = np.random.default_rng(0 if request.param == "informative" else request.param)
    plan = {f"{s} {rng.integers(1, 3)}" if s in REPEATED else s for s in STAGES}
    workdir = undisturbed[0].with_name(f"killed_{request.param}")
    kills = {}
    for stage in sorted(plan, key=ORDER.index):
        paths = undisturbed[1][stage]
        places = (
            informative_changes(stage, paths)
            if request.param == "informative"
            else range(1, len(paths) + 1)
        )
        status, where, stderr = smoke(forks, workdir, stage, int(rng.choice(places)))
        assert status == -signal.SIGKILL, f"{stage}: {where}\n{stderr[-3000:]}"
        kills[stage.split()[0]] = where
    status, _, stderr = smoke(forks, workdir)
    assert status == 0, stderr[-3000:]
    return workdir, kills


def unique_records(folder, cls):
    """The set of records, none of which may have been made twice."""
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


OUTPUTS = {  # what a stage leaves to later stages
    "evolve": lambda w: (
        unique_records(w / "pool", Candidate),
        unique_records(w / "pool" / "proposals", Proposal),
    ),
    "select": lambda w: (w / "sft_pairs.jsonl").read_bytes(),
    "sft": lambda w: booster(w / "sft"),
    "prefer": lambda w: [
        (
            unique_records(w / f"round_{r}" / "candidates", Candidate),
            (w / f"round_{r}" / "preferences.jsonl").read_bytes(),
        )
        for r in (1, 2)
    ],
    "dpo": lambda w: [booster(w / f"round_{r}") for r in (1, 2)],
    "evaluate": lambda w: (w / "evaluation" / "measurements.jsonl").read_bytes(),
    "report": lambda w: sorted(p.name for p in (w / "report").iterdir()),
}


@pytest.mark.parametrize("stage", STAGES)
def test_run_killed_stage_output(stage, undisturbed, killed):
    assert killed[1][stage]["stage"].split()[0] == stage
    assert repr(OUTPUTS[stage](killed[0])) == repr(OUTPUTS[stage](undisturbed[0])), killed[1][
        stage
    ]  # NaN equals NaN


def test_run_killed_evaluation(undisturbed, killed):
    ours, theirs = (
        (workdir / "evaluation.json").read_bytes() for workdir in (killed[0], undisturbed[0])
    )
    assert ours == theirs, killed[1]
    result = json.loads(ours)
    systems = {"original", "base", "sft", "dpo_1", "dpo_2", "suffix", "shuffled", "oracle"}
    assert set(result["sets"]) == {"in_domain", "held_out"}
    assert all(set(entry["systems"]) == systems for entry in result["sets"].values())


def test_run_killed_no_temporary_files(killed):
    assert not [str(p) for p in killed[0].rglob("*") if p.name.endswith(".part")]


def test_run_outputs_without_absolute_paths(undisturbed):
    workdir = undisturbed[0]
    for path in (p for p in workdir.rglob("*") if p.suffix in (".json", ".jsonl", ".html")):
        assert str(workdir).encode() not in path.read_bytes(), path


def test_run_other_configuration(undisturbed):
    workdir = undisturbed[0]
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    command = [sys.executable, "-m", "pav_jax.main", *COMMAND, f"--workdir={workdir}"]
    done = subprocess.run([*command, "--config.seed=5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "seed = 0, now it is 5" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
