"""Command lines of the scripts for GKE."""

import shlex
from pathlib import Path

from tests.launch.scripts import LAUNCH, LIBTPU, PAV, REQUIRED, STAND_IN


def test_gke_create_capacity(desk):
    settings = REQUIRED["gke/create.sh"][0]
    for capacity, flag in (
        ("spot", "--spot"),
        ("on-demand", "--on-demand"),
        ("reserved", "--reservation=ours"),
    ):
        desk.run(
            "gke/create.sh", settings | {"CAPACITY": capacity, "RESERVATION": "ours", "SLICES": "2"}
        )
        assert desk.calls() == [
            [
                "xpk",
                "cluster",
                "create",
                "--cluster=pods",
                "--tpu-type=v5litepod-16",
                "--num-slices=2",
                flag,
                "--project=lab",
                "--zone=us-west4-a",
            ]
        ]


def test_gke_run_last_commit_and_secrets(desk):
    show = 'for word; do [[ $word != --env-file=* ]] || cat "${word#*=}"; done\n'
    desk.program("xpk", STAND_IN.replace("next() {", show + "next() {"))
    secrets = {"SECRETS": "OPENAI_API_KEY", "OPENAI_API_KEY": "s3cret"}
    done = desk.run("gke/run.sh", REQUIRED["gke/run.sh"][0] | secrets, [*PAV, "--config.name=a b"])
    archive, unpack, submit = calls = desk.calls()
    assert "s3cret" not in str(calls) + done.stdout + done.stderr
    scratch = unpack[2].removesuffix("/source.tar")
    assert archive == [
        "git",
        "-C",
        str(LAUNCH.parent),
        "archive",
        "--format=tar",
        f"--output={scratch}/source.tar",
        "HEAD",
    ]
    assert unpack == ["tar", "-xf", f"{scratch}/source.tar", "-C", f"{scratch}/source"]
    assert submit == [
        "xpk",
        "workload",
        "create",
        "--cluster=pods",
        "--workload=mini",
        "--tpu-type=v5litepod-16",
        "--num-slices=1",
        "--base-docker-image=python:3.12",
        f"--script-dir={scratch}/source",
        f"--env-file={scratch}/env",
        "--max-restarts=50",
        "--restart-on-exit-codes=1",
        "--termination-grace-period-seconds=300",
        "--project=lab",
        "--zone=us-west4-a",
        f"--command=pip install -q -e '.[tpu]' && exec {shlex.join(PAV)} --config.name=a\\ b",
    ]
    assert done.stdout.split("\n") == [
        "JAX_COMPILATION_CACHE_DIR=gs://b/pav/jax_cache",
        f"LIBTPU_INIT_ARGS={LIBTPU['v5litepod-16']}",
        "OPENAI_API_KEY",
        "",
    ]
    assert not Path(scratch).exists()


def test_gke_stop_workload_and_cluster(desk):
    settings = REQUIRED["gke/stop.sh"][0]
    place = ["--project=lab", "--zone=us-west4-a"]
    end = ["xpk", "workload", "delete", "--workload=mini", "--cluster=pods", "--force", *place]
    desk.run("gke/stop.sh", settings)
    assert desk.calls() == [end]
    desk.run("gke/stop.sh", settings | {"DELETE_CLUSTER": "1"})
    assert desk.calls() == [end, ["xpk", "cluster", "delete", "--cluster=pods", "--force", *place]]
