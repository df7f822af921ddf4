"""Compiles programs for a TPU topology with libtpu's compiler, which needs no chips.

Only compilation shows for certain whether a program fits.
"""

import contextlib
import dataclasses
import importlib.metadata
import re
import threading
import time
from collections.abc import Iterator

import jax

from pav_jax.preflight.hlo import HloModule

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"([\d.]+)([KMGT])"
# libtpu reports a program that does not fit in one of these forms.
OUT_OF_MEMORY = (
    re.compile(rf"Used {_AMOUNT} of {_AMOUNT} hbm"),
    re.compile(rf"HLO temporaries \({_AMOUNT}\) exceeds available HBM \({_AMOUNT}\)"),
)


@dataclasses.dataclass(frozen=True)
class CompileResult:
    """The result of compiling a program.

    Attributes:
      seconds: compile time.
      error: one line on why the program does not compile; None if it does.
      memory: bytes of HBM per chip: `total` and its parts. If the program does not fit, only the
        `total` that the compiler reports.
      hlo: the program of one chip; None if it does not compile.
    """

    seconds: float
    error: str | None
    memory: dict[str, int]
    hlo: HloModule | None = None


def compile_program(lowered: jax.stages.Lowered) -> CompileResult:
    """Compiles a program and measures it. A compile error is a result, not an exception."""
    start = time.perf_counter()
    try:
        with _compilation_cache_disabled:
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - start
        message, memory = parse_compile_error(str(error))
        return CompileResult(seconds, message, memory)
    seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        return CompileResult(seconds, _version_error(error), {})
    assert stats is not None and text is not None, "the TPU compiler reports both"
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        # aliased outputs reuse the memory of arguments
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    memory["total"] = sum(memory.values())
    return CompileResult(seconds, None, memory, HloModule(text))


def _version_error(error: Exception) -> str:
    """One line for a program that was compiled, but that this jaxlib cannot read."""
    required = [name for name in importlib.metadata.requires("jax") or () if "libtpu" in name]
    needed = required[0].partition(";")[0].strip() if required else "the libtpu of jax[tpu]"
    return (
        f"the installed libtpu and jaxlib {importlib.metadata.version('jaxlib')} do not fit"
        f" together ({str(error)[:60]}...); install '{needed}'"
    )


@contextlib.contextmanager
def minimal_compile_effort() -> Iterator[None]:
    """Lowers the compiler's effort while the context is active.

    Programs compile in seconds instead of minutes (many minutes for a video VAE), but their memory
    and traffic differ from those of a real run.
    """
    values = {
        "jax_optimization_level": "O0",
        "jax_exec_time_optimization_effort": -1.0,
        "jax_memory_fitting_effort": -1.0,
    }
    previous = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in previous.items():
            jax.config.update(name, value)


class _CompilationCacheDisabled:
    """While a thread is in this context, JAX's persistent compilation cache is off: programs for
    chips that are not attached cannot be loaded from it."""

    name = "jax_enable_compilation_cache"

    def __init__(self):
        self._lock = threading.Lock()
        self._num_threads = 0
        self._previous = True

    def __enter__(self) -> None:
        with self._lock:
            self._num_threads += 1
            if self._num_threads == 1:
                self._previous = getattr(jax.config, self.name)  # not declared in JAX's types
                self._enable(False)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_threads -= 1
            if self._num_threads == 0:
                self._enable(self._previous)

    def _enable(self, value: bool) -> None:
        from jax.experimental.compilation_cache import compilation_cache

        jax.config.update(self.name, value)
        compilation_cache.reset_cache()  # JAX reads the setting once, and again after a reset


_compilation_cache_disabled = _CompilationCacheDisabled()


def parse_compile_error(message: str) -> tuple[str, dict[str, int]]:
    """Shortens the compiler's error message.

    Returns:
      The reason in one line, and {"total": bytes of HBM needed per chip} if memory is the reason.
    """
    for pattern in OUT_OF_MEMORY:
        if match := pattern.search(message):
            needed, needed_unit, available, available_unit = match.groups()
            reason = (
                f"needs {needed} {needed_unit}iB of HBM per chip,"
                f" {available} {available_unit}iB are available"
            )
            return reason, {"total": int(float(needed) * UNITS[needed_unit])}
    return message.strip().splitlines()[0][:300], {}
