"""Execute the notebooks of this folder and store their outputs in them.

    python examples/notebooks/execute.py [NAME ...]

Without names all of them, about 15 minutes of CPU time. Each runs in a folder of
its own that is removed. Progress lines are not stored. Needs the extra `dev`.
"""

import argparse
import base64
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.ipynb")))
TIMEOUT_S = 1800  # of a cell
NUM_COLORS = 128  # of a stored picture
RESPONSE_TIMEOUT_S = 600  # of a kernel that starts or sends its outputs, on a busy machine
# a notebook for accelerators sees these many devices, which the CPU simulates
SIMULATED_DEVICES = {"tpu": 8}


def read(name: str) -> nbformat.NotebookNode:
    """The stored notebook."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(
    name: str, folder: str | os.PathLike, parameters: Mapping[str, Any] | None = None
) -> nbformat.NotebookNode:
    """Run a notebook on the CPU.

    Args:
      folder: the working directory of the run.
      parameters: values that replace those of the cell with the tag "parameters".

    Returns:
      The notebook with its outputs, without progress lines.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    notebook = read(name)
    if parameters:
        tagged = (
            i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
        )
        values = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
        notebook.cells.insert(next(tagged) + 1, new_code_cell(values))
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    if name in SIMULATED_DEVICES:
        env["JAX_NUM_CPU_DEVICES"] = str(SIMULATED_DEVICES[name])
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        startup_timeout=RESPONSE_TIMEOUT_S,
        iopub_timeout=RESPONSE_TIMEOUT_S,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller_png(output.data["image/png"])
    notebook.metadata.language_info = {"name": "python"}  # without the version of this machine
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def smaller_png(content: str) -> str:
    """A picture with fewer colors, both in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(NUM_COLORS).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Execute the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(name, folder), FOLDER / f"{name}.ipynb")
        print(f"{name}: executed")


if __name__ == "__main__":
    main()
