"""on_host.sh in the home directory of a host."""

import os
import shutil
import stat
import subprocess
import time

import pytest

from tests.launch.scripts import JOB, LIBTPU, PAV, STAND_IN

# has no session, and runs the session's command at once
TMUX = '#!/usr/bin/env bash\n[[ $1 != has-session ]] || exit 1\nshift 4\n"$@"\n'


@pytest.mark.parametrize("tpu_type", LIBTPU)
def test_on_host_start_arguments(desk, host, tpu_type):
    desk.program("tmux", TMUX)
    odd = ['--config.name=it\'s $HOME "quoted"; a*', "--note="]
    desk.run(
        "run.sh",
        JOB
        | {
            "TPU_TYPE": tpu_type,
            "HOST": str(host),
            "SECRETS": "OPENAI_API_KEY",
            "OPENAI_API_KEY": "a b'c",
        },
        [*PAV, *odd],
    )
    assert (host / "called").read_text().split("\n") == [
        *PAV[1:],
        *odd,
        "gs://b/pav/jax_cache",
        LIBTPU[tpu_type],
        "a b'c",
        str(host / "pav"),
        "",
    ]
    assert stat.S_IMODE((host / "pav_secrets").stat().st_mode) == 0o600
    (log,) = (host / "pav_state").glob("*.log")
    assert log.stem == os.uname().nodename and "working\n" in log.read_text()
    assert ["gcloud", "storage", "cp", str(log), "gs://b/pav/logs/pav/"] in desk.calls()
    assert (host / "pav_state/exit_status").read_text() == "0\n"


def on_host(desk, host, *arguments: str) -> subprocess.CompletedProcess:
    environment = {
        "PATH": f"{desk.bin}:{os.environ['PATH']}",
        "ANSWERS": str(desk.folder),
        "HOME": str(host),
        "TMUX_TMPDIR": str(desk.folder),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "COPY_SECONDS": "1",
        **JOB,
    }
    return subprocess.run(
        ["bash", "pav/launch/on_host.sh", *arguments],
        cwd=host,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_on_host_status_last_job(desk, host):
    desk.program("tmux", TMUX)
    assert on_host(desk, host, "status").stdout == "gone\n"
    (host / "fate").write_text("143")
    on_host(desk, host, "start", "run")
    assert on_host(desk, host, "status").stdout == "143\n"


@pytest.mark.parametrize("fault", ["echo ERROR >&2; exit 1", "sleep 60", "printf '{\"a'"])
def test_on_host_log_not_copied(desk, host, fault):
    """What becomes of the copies of the log does not concern the job."""
    desk.program("tmux", TMUX)
    desk.program("gcloud", f"#!/usr/bin/env bash\n{fault}\n")
    assert on_host(desk, host, "start", "run").returncode == 0
    assert on_host(desk, host, "status").stdout == "0\n"


def test_on_host_install(desk, host):
    uv = host / ".local/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(STAND_IN)
    uv.chmod(0o755)
    desk.program("tmux", TMUX)
    assert on_host(desk, host, "install").returncode == 0
    assert desk.calls() == [
        ["uv", "venv", "--python", "3.12", "--allow-existing", ".venv"],
        ["uv", "pip", "install", "--python", ".venv/bin/python", "-e", ".[tpu]"],
    ]


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
def test_on_host_stop_sigterm(desk, host):
    (host / "pav/.venv/bin/pav").write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo saved; exit 143' TERM\n"
        "echo ready; while true; do sleep 0.1; done\n"
    )
    assert on_host(desk, host, "start", "run", "--config.name=a b").returncode == 0
    try:
        (log,) = _wait_for(
            lambda: [
                path for path in (host / "pav_state").glob("*.log") if "ready" in path.read_text()
            ]
        )
        assert on_host(desk, host, "status").stdout == "running\n"
        again = on_host(desk, host, "start", "run")
        assert again.returncode == 1 and "already running" in again.stderr
    finally:
        assert on_host(desk, host, "stop").returncode == 0
    assert on_host(desk, host, "status").stdout == "143\n"
    assert "pav run --config.name=a b\n" in log.read_text() and log.read_text().count("saved") == 1
    assert on_host(desk, host, "stop").returncode == 0  # nothing to stop is no mistake


def _wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return result
