"""Command lines of the scripts for TPU VMs and queued resources."""

import pytest

from tests.launch.scripts import (
    DELETE,
    EVERYWHERE,
    INSTALL,
    JOB,
    LAUNCH,
    PAV,
    PLACE,
    QUEUED,
    REQUIRED,
    START,
    STOP,
    TPU,
    VM,
    check_deleted,
    create,
    on_every_host,
)


def test_create_one_slice(desk):
    desk.run("create.sh", REQUIRED["create.sh"][0])
    assert desk.calls() == [create("--node-id=pav", "--spot")]


def test_create_slices_and_flags(desk):
    desk.run(
        "create.sh",
        REQUIRED["create.sh"][0]
        | {
            "SLICES": "4",
            "CAPACITY": "reserved",
            "CREATE_FLAGS": "--network=mtu9k --internal-ips",
        },
    )
    assert desk.calls() == [
        create(
            "--node-count=4", "--node-prefix=pav", "--reserved", "--network=mtu9k", "--internal-ips"
        )
    ]


@pytest.mark.parametrize(
    "tpu_type, version",
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_create_tpu_vm_version(desk, tpu_type, version):
    desk.run(
        "create.sh", TPU | {"TPU_KIND": "tpu-vm", "TPU_TYPE": tpu_type, "CAPACITY": "on-demand"}
    )
    assert desk.calls() == [
        [*VM, "create", "pav", f"--accelerator-type={tpu_type}", f"--version={version}", *PLACE]
    ]


def test_setup_last_commit(desk):
    desk.run("setup.sh", TPU)
    archive = str(desk.folder / "pav-pav.tar.gz")
    assert desk.calls() == [
        [
            "git",
            "-C",
            str(LAUNCH.parent),
            "archive",
            "--format=tar.gz",
            f"--output={archive}",
            "HEAD",
        ],
        [*QUEUED, "scp", archive, "pav:pav.tar.gz", *EVERYWHERE, *PLACE],
        on_every_host(INSTALL),
    ]


def test_run_on_every_host(desk):
    desk.run("run.sh", JOB, PAV)
    desk.run("run.sh", JOB | {"TPU_KIND": "tpu-vm", "BUCKET": "gs://b/pav/"}, PAV)
    assert desk.calls() == [on_every_host(START), on_every_host(START, VM, ["--worker=all"])]


def test_status_requests(desk):
    desk.answers(states="ACTIVE", slices="READY READY", jobs="running")
    assert desk.run("status.sh", TPU).stdout == "ACTIVE running\n"
    job = "if [ -d pav ]; then bash pav/launch/on_host.sh status; else echo gone; fi"
    assert desk.calls() == [
        [
            *QUEUED,
            "describe",
            "pav",
            "--format=value[separator=' '](name.basename(),state.state,"
            'tpu.nodeSpec[].nodeId.list(separator=" "))',
            "--verbosity=error",
            *PLACE,
        ],
        [
            *VM,
            "list",
            "--filter=name~(^|/)pav(-[0-9]+)?$",
            "--format=value[separator=' '](name.basename(),state)",
            "--verbosity=error",
            *PLACE,
        ],
        [*QUEUED, "ssh", "pav", "--worker=0", "--node=0", f"--command={job}", *PLACE],
    ]
    desk.answers(states="READY", jobs="143")
    assert desk.run("status.sh", TPU | {"TPU_KIND": "tpu-vm"}).stdout == "READY 143\n"
    assert desk.calls() == [
        [
            *VM,
            "describe",
            "pav",
            "--format=value[separator=' '](name.basename(),state)",
            "--verbosity=error",
            *PLACE,
        ],
        [*VM, "ssh", "pav", "--worker=0", f"--command={job}", *PLACE],
    ]


@pytest.mark.parametrize(
    "states, slices, jobs, said",
    [
        ("SUSPENDED", "", "", "SUSPENDED"),
        ("WAITING_FOR_RESOURCES", "", "", "WAITING_FOR_RESOURCES"),
        ("NOT_FOUND", "", "", "NOT_FOUND"),
        ("DENIED", "", "", "UNKNOWN"),
        ("ACTIVE", "READY", "", "ACTIVE silent"),
        ("ACTIVE", "PREEMPTED", "running", "PREEMPTED"),
    ],
)
def test_status_output(desk, states, slices, jobs, said):
    desk.answers(states=states, slices=slices, jobs=jobs)
    done = desk.run("status.sh", TPU)
    assert done.stdout == f"{said}\n"
    assert ("PERMISSION_DENIED" in done.stderr) == (states == "DENIED")


def test_stop_job_and_tpu(desk):
    desk.run("stop.sh", TPU)
    assert desk.calls() == [on_every_host(STOP), DELETE, check_deleted()]
    desk.run("stop.sh", TPU | {"TPU_KIND": "tpu-vm"})
    assert desk.calls() == [
        on_every_host(STOP, VM, ["--worker=all"]),
        [*VM, "delete", "pav", "--quiet", *PLACE],
        check_deleted(VM),
    ]
    desk.run("stop.sh", TPU | {"KEEP_TPU": "1"})
    assert desk.calls() == [on_every_host(STOP)]
