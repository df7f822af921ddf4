"""Settings of every test process: the CPU only, no network, one compilation cache."""

import gc
import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # torch's threads wait for each other in busy loops: with a test process on every core, they
    # would mostly take the core from the other processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# most of the time is compilation of tiny programs that run once, so XLA optimizes them less, and
# compiles fusions by its older, faster code generator
FAST_COMPILATION = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
flags = os.environ.get("PAV_TEST_XLA_FLAGS", FAST_COMPILATION)
os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()
# compiled programs are kept between runs: most of the time of the suite is compilation
cache = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# the shapes and dtypes that annotations promise are checked at every call; PAV_CHECK_TYPES=0: not
if os.environ.get("PAV_CHECK_TYPES", "1") == "1":
    from jaxtyping import install_import_hook

    import tests.array_types  # noqa: F401  (the hook imports it by name)

    install_import_hook("pav_jax", "tests.array_types.arrays_only")

# once for all packages of tests: the clients of a process know one server of each kind
from tests.object_stores import gcs_store, s3_store, store  # noqa: E402, F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files first that have slow tests only: no process waits for a long one at the end."""
    fast_files = {item.path for item in items if "slow" not in item.keywords}
    items.sort(key=lambda item: item.path in fast_files)


# Linux allows a process 65,530 memory mappings. A compiled program takes a few of them, and XLA
# crashes when it gets no more.
MAX_MAPPINGS = 25_000


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Clear the caches of compiled programs between files of tests, when there are many."""
    mappings = pathlib.Path("/proc/self/maps")
    if nextitem is None or nextitem.path == item.path or not mappings.exists():
        return
    if mappings.read_bytes().count(b"\n") > MAX_MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()
