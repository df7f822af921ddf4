"""ComfyUI's loading of custom nodes and its execution of a graph in API format, in short."""

import importlib.util
import pathlib
import sys
from typing import Any

SCALARS = {"STRING": str, "INT": int, "FLOAT": (int, float)}


def load_custom_node(folder: pathlib.Path) -> Any:
    """Import a folder of `custom_nodes` under the name that ComfyUI gives it."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert (folder / module.WEB_DIRECTORY).is_dir()
    return module


def check_value(declaration: tuple, value: Any) -> None:
    """What ComfyUI checks of a widget's value before it runs a graph."""
    kind, options = (*declaration, {})[:2]
    if isinstance(kind, list):
        assert value in kind
        return
    assert isinstance(value, SCALARS[kind])
    if kind != "STRING":
        assert options.get("min", value) <= value <= options.get("max", value)


def run_graph(classes: dict[str, type], graph: dict[str, dict]) -> dict[str, Any]:
    """Run every node once, after those it is connected to.

    Returns:
      Node id -> (what the node shows, its outputs).
    """
    results: dict[str, Any] = {}

    def execute(node_id: str) -> Any:
        if node_id in results:
            return results[node_id]
        node_class: Any = classes[graph[node_id]["class_type"]]
        types = node_class.INPUT_TYPES()
        declared = types["required"] | types.get("optional", {})
        values = graph[node_id]["inputs"]
        assert set(types["required"]) <= set(values) <= set(declared)
        inputs = {}
        for name, value in values.items():
            if isinstance(value, list):  # [node, number of its output]
                source, output = value
                source_class: Any = classes[graph[source]["class_type"]]
                assert source_class.RETURN_TYPES[output] == declared[name][0]
                inputs[name] = execute(source)[1][output]
            else:
                check_value(declared[name], value)
                inputs[name] = value
        answer = getattr(node_class(), node_class.FUNCTION)(**inputs)
        shown, outputs = (
            (answer["ui"], answer["result"]) if isinstance(answer, dict) else ({}, answer)
        )
        assert len(outputs) == len(node_class.RETURN_TYPES)
        results[node_id] = (shown, outputs)
        return results[node_id]

    for node_id in graph:
        execute(node_id)
    return results


def default_inputs(node_class: Any) -> dict[str, Any]:
    """The values of the widgets of a new node, as the browser fills them in."""
    types = node_class.INPUT_TYPES()
    values = {}
    for name, declaration in (types["required"] | types.get("optional", {})).items():
        kind, options = (*declaration, {})[:2]
        if isinstance(kind, list):
            values[name] = options.get("default", kind[0])
        else:
            values[name] = options.get("default", "" if kind == "STRING" else options.get("min", 0))
    return values
