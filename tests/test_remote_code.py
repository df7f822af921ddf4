"""Code that comes with a checkpoint is never run, and pickled weights are not loaded: every call of
transformers, diffusers or datasets that would do so says the opposite, whatever is the default."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("pav_jax", "benchmarks", "examples", "configs")
DIFFUSERS = ("DiffusionPipeline", "PIPELINES")
LIBRARIES = (*DIFFUSERS, "Auto", "load_dataset")
LOADERS = ("from_pretrained", "download", "load_dataset")


def loading_calls(file: Path) -> Iterator[tuple[str, dict[str | None, str]]]:
    """(the called function, its keyword arguments) of calls that load a checkpoint or data set."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.endswith(LOADERS) and any(library in name for library in LIBRARIES):
                yield name, {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_loading_calls_run_no_code():
    files = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            for name, options in loading_calls(file):
                files.add(file.name)
                assert options.get("trust_remote_code") == "False", (file, name)
                is_diffusers = any(library in name for library in DIFFUSERS)
                assert not is_diffusers or options.get("use_safetensors") == "True", (file, name)
    assert {"tokenizers.py", "diffusers_loading.py"} <= files
