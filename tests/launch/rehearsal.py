"""A Google Cloud of local folders, on whose hosts the real scripts install and run `pav`.

`cloud_gcloud.sh` is its gcloud. A host is a folder with its own HOME, environment and tmux server;
what a TPU host would download comes from the environment that runs the tests.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "PROJECT": "lab",
    "ZONE": "us-west4-a",
    "TPU_NAME": "pav",
    "TPU_TYPE": "v5litepod-16",
    "CAPACITY": "spot",
    "SLICES": "2",
}

# of the lock of a work directory, in seconds: new hosts wait for a sign of life of the lost ones
REFRESH_S = 3
EXPIRE_S = 15

# called for each node of a new TPU; the host gets a new name, JAX's processes meet at the first
MADE = """#!{python}
import pathlib, socket, sys, uuid
cloud = pathlib.Path("{cloud}")
(cloud / "nodes" / sys.argv[1] / "hostname").write_text(f"t1v-{{uuid.uuid4().hex[:8]}}-w-0")
if sys.argv[1] == "pav-0":
    with socket.socket() as free:
        free.bind(("localhost", 0))
        (cloud / "coordinator").write_text(f"localhost:{{free.getsockname()[1]}}")
"""
# Takes a node away: SIGKILL to all its processes. Those of a session are one process group.
LOST = """#!/usr/bin/env bash
export TMUX_TMPDIR={sockets}/$1
server=$(tmux display-message -p '#{{pid}}')
for job in $(tmux list-panes -a -F '#{{pane_pid}}'); do kill -KILL -- "-$job"; done
[[ -z "$server" ]] || kill -KILL "$server"
true
"""
# runs a command in the home directory of a node's host
SHELL = """#!/usr/bin/env bash
cd {cloud}/nodes/$1/home
mkdir -p {sockets}/$1
exec env -i HOME="$PWD" HOST_NAME="$(<../hostname)" \
  PATH={cloud}/host_bin:/usr/local/bin:/usr/bin:/bin TMUX_TMPDIR={sockets}/$1 TERM=xterm \
  LC_ALL=C.UTF-8 HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 JAX_NUM_PROCESSES=2 \
  JAX_PROCESS_ID="${{1##*-}}" JAX_COORDINATOR_ADDRESS="$(<{cloud}/coordinator)" {environment} \
  bash -c "$2"
"""
HOSTNAME = '#!/usr/bin/env bash\necho "$HOST_NAME"\n'
# `gcloud storage cp FILE gs://BUCKET/FOLDER/` into the emulated bucket
STORAGE = """#!{python}
import os, sys, urllib.parse, urllib.request
assert sys.argv[1:3] == ["storage", "cp"] and sys.argv[4].startswith("gs://"), sys.argv
bucket, _, folder = sys.argv[4].removeprefix("gs://").partition("/")
name = urllib.parse.quote(folder + os.path.basename(sys.argv[3]), safe="")
url = os.environ["STORAGE_EMULATOR_HOST"] + "/upload/storage/v1/b/" + bucket
with open(sys.argv[3], "rb") as file:
    urllib.request.urlopen(url + "/o?uploadType=media&name=" + name, file.read()).close()
"""
# downloads uv's installer
CURL = """#!/usr/bin/env bash
[[ "$*" == *" https://astral.sh/uv/install.sh" ]] || exit 22
echo "mkdir -p ~/.local/bin && cp {cloud}/uv ~/.local/bin/uv"
"""
# Makes a virtual environment, and "installs" the tree with what the tests' environment has. Python
# there knows the host's name, and locks expire sooner.
UV = """#!/usr/bin/env bash
set -euo pipefail
case "$*" in
  "venv --python 3.12 --allow-existing .venv") {python} -m venv --without-pip .venv ;;
  "pip install --python .venv/bin/python -e .[tpu]")
    printf '%s\\n' "$PWD" {packages} \
      'import os, socket; socket.gethostname = lambda: os.environ["HOST_NAME"]' \
      >.venv/lib/python{version}/site-packages/prepared.pth
    printf '%s\\n' "#!$PWD/.venv/bin/python" "from pav_jax.main import console" \
      "from pav_jax.storage import lock" "lock.REFRESH_S = {refresh_s}" \
      "lock.EXPIRE_S = {expire_s}" "console()" >.venv/bin/pav
    chmod +x .venv/bin/pav ;;
  *) exit 2 ;;
esac
"""


class Rehearsal:
    """The folders, and the scripts that run on them.

    Args:
      folder: an empty folder.
      bucket: what BUCKET is set to, gs://...
      environment: further variables of the hosts, by which they find the bucket.
    """

    def __init__(self, folder: Path, bucket: str, environment: dict[str, str]):
        self.cloud = folder / "cloud"
        self._process: subprocess.Popen | None = None
        self._sockets = tempfile.mkdtemp(prefix="pav")  # the path of a socket must be short
        self.launch = self._commit(folder / "checkout") / "launch"
        for name in ("cloud/bin", "cloud/host_bin", "desk"):
            (folder / name).mkdir(parents=True)
        self.environment = {
            "PATH": f"{self.cloud}/bin:{os.environ['PATH']}",
            "CLOUD": str(self.cloud),
            "HOME": str(folder / "desk"),
            "TMPDIR": str(folder / "desk"),
            "POLL_SECONDS": "1",
            "RETRY_SECONDS": "1",
            "BUCKET": bucket,
            **SETTINGS,
        }
        words = {
            "cloud": self.cloud,
            "python": sys.executable,
            "sockets": self._sockets,
            "refresh_s": REFRESH_S,
            "expire_s": EXPIRE_S,
            "environment": shlex.join(f"{name}={value}" for name, value in environment.items()),
            "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "packages": " ".join(path for path in sys.path if path.endswith("-packages")),
        }
        self._program("bin/gcloud", Path(__file__).with_name("cloud_gcloud.sh").read_text())
        self._program("host_bin/hostname", HOSTNAME)
        for name, text in (
            ("made", MADE),
            ("lost", LOST),
            ("shell", SHELL),
            ("host_bin/gcloud", STORAGE),
            ("host_bin/curl", CURL),
            ("uv", UV),
        ):
            self._program(name, text.format(**words))
        (self.cloud / "faults").touch()

    def _program(self, name: str, text: str) -> None:
        (self.cloud / name).write_text(text)
        (self.cloud / name).chmod(0o755)

    @staticmethod
    def _commit(checkout: Path) -> Path:
        """Commit the working tree in a repository of its own, for setup.sh to copy."""
        checkout.mkdir()
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "-c", "-o", "--exclude-standard"]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            target = checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "tree"],
        ):
            subprocess.run(["git", "-C", str(checkout), *words], check=True)
        return checkout

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        """Start a script; what it says on standard error is added to `messages`."""
        with open(self.cloud / "messages", "a") as messages:
            self._process = subprocess.Popen(
                [self.launch / script, *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )
        return self._process

    def run(self, script: str, *arguments: str) -> str:
        """Run a script to its end; return its standard output."""
        process = self.start(script, *arguments)
        stdout, _ = process.communicate(timeout=300)
        assert process.returncode == 0, self.messages()
        return stdout

    def preempt(self, node: str) -> None:
        """Take the node away as Google Cloud does: its host is gone at once."""
        (self.cloud / "nodes" / node / "state").write_text("PREEMPTED\n")
        subprocess.run([self.cloud / "lost", node], check=True)

    def messages(self) -> str:
        """What the scripts and the hosts' jobs have said last, to explain a failure."""
        paths = sorted(self.cloud.glob("nodes/*/home/pav_state/*.log"))
        paths.append(self.cloud / "messages")
        return "\n".join(f"{path}: {path.read_text()[-3000:]}" for path in paths)

    def effects(self) -> list[str]:
        """What was done to the TPU."""
        return (self.cloud / "effects").read_text().splitlines()

    def close(self) -> None:
        """End the script and whatever runs on the hosts, if a test has failed."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for node in self.cloud.glob("nodes/*"):
            subprocess.run([self.cloud / "lost", node.name], capture_output=True)
        shutil.rmtree(self._sockets)


def wait_for(condition, seconds: float) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(1)
