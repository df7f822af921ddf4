"""Notebooks run at small sizes, and show what is stored in them."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

import nbformat
import pytest

from examples.notebooks import execute as notebooks
from tests.tiny.byte_language_model import tiny_language_model
from tests.tiny.chat_formats import FORMATS, chat_tokenizer

QUICK = str(pathlib.Path(__file__).with_name("quick.py"))
MAX_BYTES = 300_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(root|home|work|tmp|usr|opt|var|Users)\b")
FEW_PROMPTS = {"CONFIG": QUICK, "NUM_PROMPTS": 4, "NUM_TEST_PROMPTS": 2}
SMALL_PARAMETERS = {
    "five_minutes": FEW_PROMPTS,
    "own_generator_and_reward": FEW_PROMPTS,
    "sft_dpo_own_pairs": {"MODEL": "qwen3", "SFT_STEPS": 2, "DPO_STEPS": 2, "MAX_NEW_TOKENS": 4},
    "tpu": {"STEPS": 2},
}


def save_tiny_qwen3(folder: pathlib.Path) -> None:
    lm = tiny_language_model(model_type="qwen3", qk_norm=True)
    tokenizer = chat_tokenizer(FORMATS["qwen3"])
    eos = (tokenizer.eos_token_id,)
    dataclasses.replace(lm, tokenizer=tokenizer, eos=eos).save_pretrained(folder)


def kinds_of_output(cell: nbformat.NotebookNode) -> set[str]:
    """The kinds of output of a cell: "stdout", or types such as image/png."""
    return {kind for output in cell.outputs for kind in output.get("data", {}) or [output["name"]]}


def texts_of_output(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in notebooks.code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text") or output["data"].get("text/plain", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.NAMES)
def test_notebook_runs_and_shows_what_is_stored(name, tmp_path):
    if name == "sft_dpo_own_pairs":
        save_tiny_qwen3(tmp_path / "qwen3")
    executed = notebooks.execute(name, tmp_path, SMALL_PARAMETERS[name])
    cells = {cell.id: kinds_of_output(cell) for cell in notebooks.code_cells(executed)}
    for cell in notebooks.code_cells(notebooks.read(name)):
        assert cells[cell.id] == kinds_of_output(cell), cell.id


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_stored_notebook_is_complete_and_small(name):
    path = notebooks.FOLDER / f"{name}.ipynb"
    notebook = notebooks.read(name)
    nbformat.validate(notebook)
    cells = notebooks.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {"stdout", "image/png"} <= set().union(*map(kinds_of_output, cells))
    assert path.stat().st_size < MAX_BYTES
    for text in texts_of_output(notebook):
        assert not MACHINE_PATH.search(text), text
    parameters = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    assert [cell.id for cell in parameters] == ["parameters"]
    assert all(f"{field} = " in parameters[0].source for field in SMALL_PARAMETERS[name])
    assert json.loads(path.read_text())["metadata"]["language_info"] == {"name": "python"}
