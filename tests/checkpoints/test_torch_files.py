"""Files of torch: all that is not a dense tensor with a name is refused in one line."""

import ml_dtypes
import numpy as np
import pytest

from pav_jax.checkpoints.torch_files import read_file
from pav_jax.errors import BadInput

torch = pytest.importorskip("torch")


class Evil:
    def __reduce__(self):
        return (open, ("/nonexistent/evil", "w"))


def _self_reference():
    content = {}
    content["model"] = content
    return content


def _module_in_itself():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module._modules["1"] = module
    return module


def _deep():
    content = {"weight": torch.ones(2)}
    for _ in range(200):
        content = {"model": content}
    return content


CASES = {
    "integer_keys": lambda: {0: torch.ones(2), 1: torch.ones(2)},
    "mixed_keys": lambda: {"a": torch.ones(2), (1, 2): torch.ones(2)},
    "sparse": lambda: {"a": torch.ones(2, 2).to_sparse()},
    "quantized": lambda: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    "meta": lambda: {"a": torch.ones(2, device="meta")},
    "complex": lambda: {"a": torch.ones(2, dtype=torch.complex64)},
    "view_of_one_number": lambda: {"a": torch.ones(1).expand(10**6, 10**6)},
    "self_reference": _self_reference,
    "deep": _deep,
    "list": lambda: [torch.ones(2)],
    "number": lambda: 3,
    "text": lambda: {"model": "x", "state_dict": 3},
    "code": Evil,
}


@pytest.mark.parametrize("case", CASES)
def test_read_file_unusable_content(tmp_path, case):
    path = tmp_path / "x.pth"
    torch.save(CASES[case](), path)
    with pytest.raises(BadInput) as error:
        read_file(path)
    assert error.value.source == str(path) and "\n" not in str(error.value)


def test_read_file_module_in_itself(tmp_path):
    torch.save(_module_in_itself(), tmp_path / "x.pth")
    assert set(read_file(tmp_path / "x.pth")) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_read_file_small_floats(tmp_path, kind):
    torch.save({"a": torch.tensor([0.5, -2.0]).to(getattr(torch, kind))}, tmp_path / "x.pth")
    array = read_file(tmp_path / "x.pth")["a"]
    assert array.dtype == getattr(np if kind == "float16" else ml_dtypes, kind)
    np.testing.assert_array_equal(array.astype(np.float32), [0.5, -2.0])
