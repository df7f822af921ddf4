"""A single process; tests/train/test_processes.py runs two."""

import pytest

from pav_jax.main import main
from pav_jax.parallel import processes


def test_initialize_distributed_without_environment(monkeypatch):
    for name in (processes.COORDINATOR_ADDRESS_ENV, processes.AUTODETECT_ENV):
        monkeypatch.delenv(name, raising=False)
    processes.initialize_distributed()
    assert processes.gather_to_host({"a": 1}) == {"a": 1}
    with processes.first_process_first("x"):
        pass


@pytest.mark.parametrize(
    "number, index, wrong", [(None, "0", "JAX_NUM_PROCESSES"), ("2", "x", "JAX_PROCESS_ID")]
)
def test_initialize_distributed_incomplete_environment(
    number, index, wrong, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv(processes.COORDINATOR_ADDRESS_ENV, "localhost:1")
    for name, value in ((processes.NUM_PROCESSES_ENV, number), (processes.PROCESS_ID_ENV, index)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert wrong in error and error.count("\n") == 1
