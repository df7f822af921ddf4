"""Settings of every test process: quick to start, the processor only, nothing from a network."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# compiled programs are kept between runs: most of the suite's time is compilation
cache = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

if (
    os.environ.get("PAV_CHECK_TYPES") == "1"
):  # array shapes and dtypes as annotated, checked at every call
    from jaxtyping import install_import_hook

    import tests.array_types  # noqa: F401  (the hook finds it by name)

    install_import_hook("pav_jax", "tests.array_types.arrays_only")
