"""Sampling as several processes: every process has the same answers as one process alone."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from tests.language import adapter_folders
from tests.tiers import first_slow
from tests.tiny.byte_language_model import tiny_language_model

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, pathlib, sys
from pav_jax.parallel.processes import initialize_distributed
initialize_distributed()
from pav_jax.parallel.mesh import make_mesh
from tests.language.test_scheduler_processes import answers
print(json.dumps(answers(pathlib.Path(sys.argv[1]), make_mesh(**json.loads(sys.argv[2])))))
"""


def answers(folder: pathlib.Path, mesh=None) -> list:
    """Token ids of the model alone, with one adapter, and with one for each prompt."""
    lm = LanguageModel.from_pretrained(folder / "base", "float32", mesh, batch_size=4)
    prompts = [lm.prompt_ids(words) for words in adapter_folders.WORDS]
    settings = Sampling(max_new_tokens=20)
    named = adapter_folders.load_adapters(lm, folder)
    single = LanguageModel.from_pretrained(
        folder / "base", "float32", mesh, adapter=folder / "wan", batch_size=4
    )
    return [
        lm.generate_ids(prompts, settings, 2, range(7)),
        single.generate_ids(prompts[:2], settings, 2),
        named.generate_ids(prompts, settings, 2, range(7), adapter_folders.NAMES),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    lm = adapter_folders.instructed(tiny_language_model())
    lm.save_pretrained(folder / "base")
    adapter_folders.write_adapters(lm, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, mesh", first_slow([(2, dict(data=2, tensor=2)), (1, dict(fsdp=4))])
)
def test_generate_ids_on_processes_equals_one_device(count, mesh, folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    env["JAX_NUM_CPU_DEVICES"] = str(4 // count)
    if count > 1:
        env |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    line = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(mesh)]
    processes = [
        subprocess.Popen(
            line,
            env=env | ({"JAX_PROCESS_ID": str(i)} if count > 1 else {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]
    expected = answers(folder)
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert json.loads(output.splitlines()[-1]) == expected
