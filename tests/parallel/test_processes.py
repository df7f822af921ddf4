"""What the environment may say of other processes; two real ones are in
tests/train/test_processes.py."""

import pytest

from pav_jax.main import main
from pav_jax.parallel import processes


def test_one_process_joins_nobody_and_has_everything(monkeypatch):
    for name in (processes.ADDRESS, processes.FOUND):
        monkeypatch.delenv(name, raising=False)
    processes.join()
    assert processes.whole({"a": 1}) == {"a": 1}
    with processes.first_process_first("x"):
        pass


@pytest.mark.parametrize(
    "number, index, wrong", [(None, "0", "JAX_NUM_PROCESSES"), ("2", "x", "JAX_PROCESS_ID")]
)
def test_an_address_without_numbers_is_one_line(
    number, index, wrong, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv(processes.ADDRESS, "localhost:1")
    for name, value in ((processes.NUMBER, number), (processes.INDEX, index)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert wrong in error and error.count("\n") == 1
