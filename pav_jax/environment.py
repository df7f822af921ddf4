"""Prepare what libraries expect of a process, before any of them is imported.

A container may run as a user without a name or home folder, a service with closed streams, a
terminal with an encoding that lacks most characters. Imports nothing but the standard library, and
the client of an object store only where JAX keeps its compiled programs in one.
"""

import codecs
import contextlib
import glob
import importlib.util
import io
import json
import os
import sys
import tempfile
from pathlib import Path

from pav_jax.errors import BadInput

CPU_DEVICE_COUNTS = (4, 2, 1)  # divisors of most batch sizes
GOOGLE_PCI_VENDOR = "0x1ae0"
TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
GPU_FILES = ("/dev/nvidia[0-9c]*", "/dev/kfd", "/dev/dxg")
USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # that getpass.getuser reads
JAX_MODULES = ("jax/_src/config.py", "jax/_src/xla_bridge.py", "jax/_src/distributed.py")


def prepare_process() -> None:
    """Set up streams, home folder and variables of this process; those that are set stay.

    Raises:
      BadInput: the working directory no longer exists, or compiled programs cannot be kept in the
        place that JAX_COMPILATION_CACHE_DIR names.
    """
    _open_standard_streams()
    _print_any_text()
    _name_user_and_home()
    try:
        os.getcwd()
    except OSError:
        raise BadInput(
            "the working directory no longer exists; change to another folder", source="."
        ) from None
    cores = os.cpu_count() or 1
    devices = next(count for count in CPU_DEVICE_COUNTS if count <= cores)
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(devices))  # see parallel.mesh.batch_mesh
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and _can_create(cache):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache / "compiled")
        # JAX's 1 s leaves out dozens of small programs, which take seconds together
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
    if "JAX_PLATFORMS" not in os.environ and _has_libtpu_only():
        os.environ["JAX_PLATFORMS"] = "cpu"  # else libtpu reports at length that it finds no TPU
    # transformers advises everyone without torch to install it; pav needs only its tokenizers
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    _prepare_compilation_cache()


def _prepare_compilation_cache() -> None:
    """Configure the client of the object store that has JAX's compiled programs, if one has them.

    JAX makes a client of its own, with the configuration that it finds.
    """
    name = "JAX_COMPILATION_CACHE_DIR"
    address = os.environ.get(name, "")
    if "://" not in address:
        return
    from pav_jax.storage.addresses import as_path

    try:
        as_path(address)
    except BadInput as error:
        raise BadInput(f"{name}={error}", source="environment", field=name) from None


def variable_error(error: BaseException) -> BadInput | None:
    """The message for an error of JAX about its own environment variables; None for any other."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    named = [name for name in variables if name in str(error)]
    frame = error.__traceback__
    files = []
    while frame is not None:
        files.append(frame.tb_frame.f_code.co_filename)
        frame = frame.tb_next
    is_of_jax = bool(files) and files[-1].endswith(JAX_MODULES)
    if not variables or not is_of_jax or not isinstance(error, ValueError | RuntimeError):
        return None
    chosen = named or sorted(variables)
    shown = ", ".join(f"{name}={variables[name]}" for name in chosen)
    return BadInput(
        f"{shown}: JAX cannot use this ({str(error)[:200]}); correct the environment variable or"
        " unset it",
        source="environment",
        field=chosen[0],
    )


def _open_standard_streams() -> None:
    """Open the null device in place of closed streams, whose numbers the next files would get."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _print_any_text() -> None:
    """Let the output streams escape, as JSON does, the characters that their encoding lacks."""
    codecs.register_error("json_escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json_escape")


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):  # bytes of a file name
        return text.encode("ascii", "surrogateescape"), error.end
    return json.dumps(text)[1:-1], error.end


def _name_user_and_home() -> None:
    """Give a user without an entry in the user database a name and a home folder."""
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"pav-{os.getuid()}"
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700)
        is_own = home.is_dir() and home.stat().st_uid == os.getuid()
        os.environ["HOME"] = str(home) if is_own else tempfile.mkdtemp(prefix="pav-")
    if any(os.environ.get(name) for name in USER_VARIABLES):
        return
    with contextlib.suppress(ImportError):
        import pwd

        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["LOGNAME"] = str(os.getuid())


def _can_create(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _has_libtpu_only() -> bool:
    """Whether libtpu is installed on a machine with neither a TPU nor a GPU."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    if any(glob.glob(pattern) for pattern in (*TPU_FILES, *GPU_FILES)):
        return False
    for vendor in glob.glob("/sys/bus/pci/devices/*/vendor"):
        with contextlib.suppress(OSError):
            if Path(vendor).read_text().strip() == GOOGLE_PCI_VENDOR:
                return False
    return True
