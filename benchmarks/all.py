"""Runs the benchmarks and regenerates the measured parts of the pages in docs/.

    python benchmarks/all.py --quick         # those of minutes
    python benchmarks/all.py --full          # all; many hours
    python benchmarks/all.py --only=evolve,score
    python benchmarks/all.py --pages         # only the pages, from the results that are there

Each benchmark is a process of its own and writes one JSON file, `--results`/NAME.json, with its
command, machine, date, versions and commit. What it prints goes to `--logs`/NAME.log. A result of
this commit and command is not measured again, so that the same command continues after an
interruption; `--again` measures it again. A benchmark that fails does not end the others; exit
status 1 says that one did. The pages have each result between `<!-- result: NAME -->` and
`<!-- end: NAME -->` (pages.py). Run it on an idle machine.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pages
from machine import commit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A result and the commands that measure it.

    Attributes:
      commands: of the repository's root; the last one takes `--json=FILE`.
      is_quick: whether it takes minutes.
      devices: how many devices JAX makes of the cores; None: as the script chooses.
    """

    commands: tuple[str, ...]
    is_quick: bool = False
    devices: int | None = None


def benchmarks(runs: Path) -> dict[str, Benchmark]:
    """All benchmarks by name.

    Args:
      runs: folder of the work directories of recipes, which are continued.
    """
    cores = len(os.sched_getaffinity(0))
    workdirs = [f"{runs}/mini_{seed}" for seed in range(3)]
    recipes = [
        f"pav run --config=configs/mini_full.py --workdir={workdir} --config.seed={seed}"
        for seed, workdir in enumerate(workdirs)
    ]
    seeds = f"python benchmarks/mini_seeds.py {' '.join(workdirs)}"
    quick = f"{runs}/mini_quick"
    quick_recipe = f"pav run --config=configs/mini.py --workdir={quick}"
    generate = "python benchmarks/generate.py"
    return {
        "evolve": Benchmark(("python benchmarks/evolve.py",), is_quick=True),
        "generate_mini": Benchmark((f"{generate} --repeats=5",), is_quick=True, devices=cores),
        "score": Benchmark(("python benchmarks/score.py",), is_quick=True, devices=cores),
        "sample_continue": Benchmark(
            ("python benchmarks/sample.py continue --repeats=2",), is_quick=True
        ),
        "sample_rewrite": Benchmark(
            ("python benchmarks/sample.py rewrite --rows=256 --batch-sizes 64 32 128 --repeats=1",)
        ),
        "train": Benchmark(("python benchmarks/train.py --steps=4",), is_quick=True),
        "generate_cogvideox": Benchmark(
            (f"{generate} --model=cogvideox --repeats=1",), devices=cores
        ),
        "generate_wan": Benchmark((f"{generate} --model=wan --repeats=1",), devices=cores),
        "generate_wan22": Benchmark(
            (f"{generate} --model=wan22 --repeats=1",), is_quick=True, devices=cores
        ),
        "mini": Benchmark(
            (quick_recipe, f"python benchmarks/mini_seeds.py --quick {quick}"), is_quick=True
        ),
        "mini_guard": Benchmark(
            (quick_recipe, f"python benchmarks/mini_guard.py {quick}"), is_quick=True
        ),
        "mini_seeds": Benchmark((*recipes, seeds)),
    }


def is_measured(file: Path, command: str) -> bool:
    """Whether a result is of this commit and command."""
    if not file.exists():
        return False
    result = json.loads(file.read_text(encoding="utf-8"))
    return commit() is not None and (result["commit"], result["command"]) == (commit(), command)


def recorded_command(benchmark: Benchmark) -> str:
    """The command as the script records it (machine.own_command)."""
    line = shlex.join(shlex.split(benchmark.commands[-1]))
    return f"JAX_NUM_CPU_DEVICES={benchmark.devices} {line}" if benchmark.devices else line


def measure(benchmark: Benchmark, file: Path, log: Path) -> bool:
    """Run the commands of a benchmark; return whether all succeeded and there is a result."""
    environment = dict(os.environ)
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    if benchmark.devices:
        environment["JAX_NUM_CPU_DEVICES"] = str(benchmark.devices)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    file.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        for number, command in enumerate(benchmark.commands, 1):
            words = shlex.split(command)
            if words[0] == "python":
                words[0] = sys.executable
            if number == len(benchmark.commands):
                words.append(f"--json={file}")
            done = subprocess.run(
                words, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            if done.returncode:
                return False
    return file.exists()


def measure_all(
    chosen: Mapping[str, Benchmark], results: Path, logs: Path, again: bool
) -> list[str]:
    """Measure the benchmarks that have no result yet; returns the names of those that failed."""
    failed = []
    for name, benchmark in chosen.items():
        file = (results / f"{name}.json").resolve()
        if not again and is_measured(file, recorded_command(benchmark)):
            print(f"{name}: measured before", flush=True)
            continue
        print(f"{name}: {'; '.join(benchmark.commands)}", flush=True)
        start = time.monotonic()
        succeeded = measure(benchmark, file, logs / f"{name}.log")
        seconds = time.monotonic() - start
        print(f"{name}: {'done' if succeeded else 'FAILED'} after {seconds:.0f} s", flush=True)
        if not succeeded:
            failed.append(name)
    return failed


def choose(
    arguments: argparse.Namespace, available: Mapping[str, Benchmark]
) -> dict[str, Benchmark]:
    """The benchmarks that the command line names."""
    if arguments.pages:
        return {}
    if arguments.only:
        names: Sequence[str] = arguments.only.split(",")
        if unknown := sorted(set(names) - set(available)):
            sys.exit(f"--only={arguments.only}: no {unknown[0]}; there are {', '.join(available)}")
        return {name: available[name] for name in names}
    return {name: b for name, b in available.items() if b.is_quick or arguments.full}


def main() -> None:
    """Measures and regenerates the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="the benchmarks of minutes")
    what.add_argument("--full", action="store_true", help="all benchmarks")
    what.add_argument("--only", help="names, separated by commas")
    what.add_argument("--pages", action="store_true", help="measure nothing")
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--results", type=Path, default=DOCS / "results")
    parser.add_argument(
        "--logs", type=Path, default=Path("runs/benchmarks"), help="also has the recipes' runs"
    )
    arguments = parser.parse_args()
    chosen = choose(arguments, benchmarks(arguments.logs))
    failed = measure_all(chosen, arguments.results, ROOT / arguments.logs, arguments.again)
    for page in pages.write_pages(DOCS, pages.read_results(arguments.results)):
        print(f"{page.relative_to(ROOT)}: written")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {arguments.logs}")


if __name__ == "__main__":
    main()
