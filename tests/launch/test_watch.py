"""watch.sh: creating again, resuming and giving up."""

import pytest

from tests.launch.scripts import REQUIRED, verbs


def watch(desk, check=True, **changes):
    settings, arguments = REQUIRED["watch.sh"]
    done = desk.run("watch.sh", settings | changes, arguments, check)
    return verbs(desk.calls()), done


def test_watch_until_finished(desk):
    desk.answers(
        states="NOT_FOUND WAITING_FOR_RESOURCES PROVISIONING ACTIVE",
        slices="READY",
        jobs="gone running 0",
    )
    steps, done = watch(desk)
    assert steps == ["create", "stop", "install", "start"]
    assert "gs://b/pav/logs/pav/" in done.stderr


@pytest.mark.parametrize(
    "kind, up, down",
    [
        ("queued-resources", "ACTIVE", "SUSPENDED"),
        ("tpu-vm", "READY", "PREEMPTED"),
        ("tpu-vm", "READY", "TERMINATED"),
    ],
)
def test_watch_preempted(desk, kind, up, down):
    desk.answers(states=f"{up} {down} {up}", jobs="running gone running 0")
    steps, _ = watch(desk, TPU_KIND=kind)
    assert steps == ["delete", "create", "stop", "install", "start"]


def test_watch_slice_preempted(desk):
    desk.answers(states="ACTIVE", slices="READY PREEMPTED READY", jobs="running gone 0")
    assert watch(desk)[0] == ["delete", "create", "stop", "install", "start"]


def test_watch_suspending_or_unknown(desk):
    desk.answers(states="SUSPENDING DENIED DENIED DENIED ACTIVE", jobs="running 0")
    steps, done = watch(desk)
    assert steps == [] and "PERMISSION_DENIED" in done.stderr


def test_watch_no_capacity(desk):
    desk.answers(states="NOT_FOUND NOT_FOUND ACTIVE", create="1 0", jobs="running 0")
    steps, done = watch(desk)
    assert steps == ["create", "create"] and "not created yet" in done.stderr


def test_watch_failed_job(desk):
    desk.answers(states="ACTIVE", jobs="running 1 running 137 0")
    assert watch(desk)[0] == ["stop", "start", "stop", "start"]
    desk.answers(states="ACTIVE", jobs="running 1")
    steps, done = watch(desk, check=False, MAX_FAILURES="2")
    assert steps == ["stop", "start"] * 2 and done.returncode == 1 and "giving up" in done.stderr


@pytest.mark.parametrize("before", ["0", "1"])
def test_watch_earlier_job(desk, before):
    desk.answers(states="ACTIVE", jobs=f"{before} 0")
    assert watch(desk)[0] == ["stop", "install", "start"]


def test_watch_bad_input_or_stopped(desk):
    desk.answers(states="ACTIVE", jobs="running 2")
    steps, done = watch(desk, check=False)
    assert steps == [] and done.returncode == 2
    desk.answers(states="STOPPED")
    steps, done = watch(desk, check=False)
    assert steps == [] and done.returncode == 1 and "stopped by hand" in done.stderr
