"""Damaged inputs: a command gives exit status 2 and one line, or works as if nothing had happened.

To add a kind of input, add a row to `KINDS`, or to `RUN_KINDS` in mutated_runs.py: how a valid
input is made, which files of it are damaged and how, and a command that reads it. The commands run
in this process; each should take well under a second, or stop at an argument that is checked after
everything is loaded. The counts are printed: `pytest -m slow -s tests/test_mutations.py`.
"""

import contextlib
import dataclasses
import functools
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from pav_jax.checkpoints import peft
from pav_jax.checkpoints.safetensors import write_tensors
from pav_jax.commands.stages import STAGES
from pav_jax.language.lora import LoraConfig, init_lora
from pav_jax.main import main
from pav_jax.models.decoder import hf
from tests.mutated_runs import RUN_KINDS
from tests.mutations import Kind, copy_folder, mutate_binary, mutate_json, mutate_template
from tests.peak_memory import peak_memory, reset_peak_memory
from tests.tiny.byte_language_model import tiny_language_model
from tests.video.tiny_pipeline import random_model

SEED = 20
MAX_CPU_SECONDS = 30  # of one command, compilation included
MAX_SECONDS = 300  # of one command on a busy machine: to notice one that waits for ever
MAX_EXTRA_MEMORY = 2**30  # bytes above what the process had


@functools.cache
def _language_model():
    return dataclasses.replace(tiny_language_model(), generation={"max_new_tokens": 4})


def make_language_model(folder: Path) -> None:
    _language_model().save_pretrained(folder, max_shard_size="20KB")
    for file in folder.glob("*.safetensors"):
        assert file.name != "model.safetensors"  # so that there is an index


def make_single_file_model(folder: Path) -> None:
    _language_model().save_pretrained(folder)


def make_adapter(folder: Path) -> None:
    lm = _language_model()
    lm.save_pretrained(folder / "base")
    config = LoraConfig(r=2)
    lora = init_lora(hf.param_shapes(lm.config), config, jax.random.key(0))
    table = hf.weights(lm.config)
    peft.write_adapter(folder / "adapter", table, lora, config.r, config.lora_alpha, 0.0, "base")


def make_gguf(folder: Path) -> None:
    _language_model().save_gguf(folder / "model.gguf", "f16")


def make_generator(folder: Path) -> None:
    random_model(0, {"_class_name": "CogVideoXDDIMScheduler"}).save_pretrained(folder)


def make_aesthetic_head(folder: Path) -> None:
    import torch

    torch.save({"weight": torch.ones(1, 8), "bias": torch.ones(1)}, folder / "head.pth")


def make_safetensors_head(folder: Path) -> None:
    tensors = {"weight": np.ones((1, 8), np.float32), "bias": np.ones(1, np.float32)}
    write_tensors(folder, tensors, "head")


def export(name: str = "", *more: str) -> Callable[[Path, Path], list[str]]:
    return lambda folder, out: ["export", f"--from={folder / name}", f"--out={out}", *more]


def generate(folder: Path, _: Path) -> list[str]:
    # the height is checked after the model is loaded, so that nothing is compiled
    return ["generate", "a red ball", f"--model={folder}", "--height=3", "--dtype=float32"]


def refine(folder: Path, _: Path) -> list[str]:
    return ["refine", "a dog runs", f"--model={folder}"]


def refine_with_template(folder: Path, _: Path) -> list[str]:
    template = folder / "chat_template.jinja"
    return ["refine", "a dog runs", f"--model={folder}", f"--template={template}"]


def export_with_adapter(folder: Path, out: Path) -> list[str]:
    return [
        "export",
        f"--from={folder / 'base'}",
        f"--adapter={folder / 'adapter'}",
        f"--out={out}",
    ]


GENERATOR_FILES = (
    "model_index.json",
    "pav_generation.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer/tokenizer_config.json",
)
KINDS = {
    "config.json": Kind(make_language_model, ["config.json"], mutate_json, export(), 40),
    "generation_config.json": Kind(
        make_language_model, ["generation_config.json"], mutate_json, export(), 15
    ),
    "tokenizer": Kind(make_language_model, ["tokenizer*.json"], mutate_json, export(), 15),
    "index": Kind(make_language_model, ["*.index.json"], mutate_json, export(), 15),
    "safetensors": Kind(make_single_file_model, ["*.safetensors"], mutate_binary, export(), 25),
    "gguf": Kind(make_gguf, ["*.gguf"], mutate_binary, export("model.gguf"), 30),
    "adapter": Kind(
        make_adapter, ["adapter/adapter_config.json"], mutate_json, export_with_adapter, 15
    ),
    "model's template": Kind(
        make_single_file_model, ["chat_template.jinja"], mutate_template, refine, 12
    ),
    "--template": Kind(
        make_single_file_model, ["chat_template.jinja"], mutate_template, refine_with_template, 8
    ),
    "generator": Kind(make_generator, GENERATOR_FILES, mutate_json, generate, 40, "refused"),
    "torch": Kind(
        make_aesthetic_head, ["*.pth"], mutate_binary, export("head.pth", "--to=pav"), 12
    ),
    "head": Kind(
        make_safetensors_head,
        ["*.safetensors"],
        mutate_binary,
        export("head.safetensors", "--to=pav"),
        8,
    ),
    **RUN_KINDS,
}


class TookTooLong(BaseException):
    """Not an Exception, so that no handler of the code under test takes it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_):
        raise TookTooLong

    limits = (
        (signal.SIGALRM, signal.ITIMER_REAL, MAX_SECONDS),
        (signal.SIGPROF, signal.ITIMER_PROF, MAX_CPU_SECONDS),
    )
    previous = [signal.signal(number, stop) for number, _, _ in limits]
    try:
        for _, timer, seconds in limits:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for (number, timer, _), handler in zip(limits, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def outcome(capsys: pytest.CaptureFixture, argv: list[str]) -> tuple[str, str]:
    """("works", "refused" or "FAILED", what there is to say about it)."""
    capsys.readouterr()
    before = reset_peak_memory()
    try:
        with time_limit():
            status = main(argv)
    except TookTooLong:
        return "FAILED", f"took more than {MAX_CPU_SECONDS} s of the processor or waited for ever"
    except BaseException:
        return "FAILED", traceback.format_exc(limit=-3)
    error = capsys.readouterr().err
    extra = peak_memory() - before
    if extra > MAX_EXTRA_MEMORY:
        return "FAILED", f"took {extra >> 20} MiB"
    if status == 0:
        return "works", ""
    if argv[0] in STAGES and "Traceback" not in error:  # the log comes before
        error = "".join(error.splitlines(keepends=True)[-1:])
    is_line = error.count("\n") == 1 and error.startswith(f"pav {argv[0]}: ")
    if status == 2 and is_line and len(error) < 2000:
        return "refused", error
    return "FAILED", f"status {status}, standard error {error[:2000]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damaged_input_is_refused_or_works(name, tmp_path, capsys):
    kind = KINDS[name]
    if "torch" in name:
        pytest.importorskip("torch")
    rng = random.Random(f"{SEED} {name}")
    valid = tmp_path / "valid"
    valid.mkdir()
    kind.make(valid)
    start = time.monotonic()
    undamaged = copy_folder(valid, tmp_path / "input")
    result, message = outcome(capsys, kind.command(undamaged, tmp_path / "out"))
    assert result == kind.valid, message
    counts: Counter[str] = Counter()
    failures = []
    for i in range(kind.cases):
        folder = copy_folder(valid, tmp_path / "input")
        paths = sorted(path for pattern in kind.files for path in folder.glob(pattern))
        damage = kind.mutate(rng.choice(paths), rng)
        result, message = outcome(capsys, kind.command(folder, tmp_path / f"out{i}"))
        counts[result] += 1
        if result == "FAILED":
            failures.append(f"{damage}: {message}")
    with capsys.disabled():
        print(f"\n{name}: {dict(counts)} of {kind.cases} in {time.monotonic() - start:.1f} s")
    assert not failures, "\n".join(failures)
    assert counts["refused"]
