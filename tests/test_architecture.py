"""Imports follow the layers of docs/architecture.md."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LAYERS = 10


def read_layers() -> dict[str, int]:
    """Layer of each module or package that the table names, as `mini.training` or `errors`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## Packages")[1].split("\n## ")[0]
    layers, layer = {}, 0
    for number, names in re.findall(r"^\| *(\d*) *\| (`.*?) \|", table, re.MULTILINE):
        layer = int(number or layer)
        for name in re.findall(r"`([\w/.]+)`", names):
            layers.setdefault(name.removesuffix(".py").strip("/").replace("/", "."), layer)
    return layers


def find_modules() -> dict[str, Path]:
    files = [p.relative_to(ROOT) for p in (ROOT / "pav_jax").rglob("*.py")]
    return {
        ".".join(file.with_suffix("").parts[1:]).removesuffix(".__init__"): ROOT / file
        for file in files
        if file.parts[1] not in ("configs", "__init__.py")
    }


LAYERS = read_layers()
MODULES = find_modules()


def layer_of(module: str) -> int:
    names = module.split(".")
    prefixes = [".".join(names[:n]) for n in range(len(names), 0, -1)]
    return next(LAYERS[prefix] for prefix in prefixes if prefix in LAYERS)


def imports_of(nodes: list[ast.stmt] | Iterator[ast.AST]) -> Iterator[str]:
    """Modules of this package that import statements among `nodes` name."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pav_jax."):
            package = (node.module or "").removeprefix("pav_jax.")
            inner = [f"{package}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else package for name in inner)
        elif isinstance(node, ast.ImportFrom) and node.module == "pav_jax":
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.Import):
            names = [alias.name.removeprefix("pav_jax.") for alias in node.names]
            yield from (name for name in names if name in MODULES)


def test_layers_at_most_ten_and_every_module_in_one():
    assert set(LAYERS.values()) == set(range(1, MAX_LAYERS + 1))
    assert all(layer_of(module) for module in MODULES)


def test_imports_never_go_upward():
    upward = {
        (module, name)
        for module, path in MODULES.items()
        for name in imports_of(ast.walk(ast.parse(path.read_text())))
        if layer_of(name) > layer_of(module)
    }
    assert upward == set()


def test_modules_never_import_each_other():
    graph = {
        module: set(imports_of(ast.parse(path.read_text()).body)) - {module}
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_stages_import_no_other_stage():
    stages = ("evolve", "prefer", "train", "evaluate", "trust", "report")
    for module, path in MODULES.items():
        stage = module.split(".")[0]
        if stage in stages:
            imported = set(imports_of(ast.walk(ast.parse(path.read_text()))))
            assert {name.split(".")[0] for name in imported} & set(stages) <= {stage}, module
