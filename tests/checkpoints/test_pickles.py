"""Arrays in pickles."""

import os
import pickle

import numpy as np
import pytest

from pav_jax.checkpoints.pickles import read_arrays, read_params
from pav_jax.errors import BadInput
from pav_jax.models.weights import Weight

TREE = {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3)},
    "mean": np.ones((1, 1, 4), np.float32),
}


class Malicious:
    """Its pickle calls a function when it is loaded."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [3, 4])
def test_read_arrays_nested(tmp_path, protocol):
    path = tmp_path / "x.ckpt"
    content = pickle.dumps(TREE, protocol)
    if protocol == 3:  # a text protocol: write the name as numpy 1 did
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(content)
    arrays = read_arrays(path)
    assert set(arrays) == {"a/kernel", "mean"}
    np.testing.assert_array_equal(arrays["a/kernel"], TREE["a"]["kernel"])


def test_read_arrays_runs_no_code(tmp_path):
    marker = tmp_path / "called"
    path = tmp_path / "x.ckpt"
    for call in (
        (os.system, (f"touch {marker}",)),
        (eval, ("1",)),
        (np.load, ("x",)),
        (getattr, ("x", "upper")),
    ):
        path.write_bytes(pickle.dumps({"a": Malicious(call)}))
        with pytest.raises(BadInput, match="x.ckpt: not a pickle of numpy arrays .it refers to"):
            read_arrays(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": [1]}),
        pickle.dumps({"a": np.array([None])}),
        pickle.dumps(TREE)[:60],
        b"",
        b"no pickle",
    ],
)
def test_read_arrays_other_content(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    for name in ("x.ckpt", "none.ckpt"):
        with pytest.raises(BadInput) as error:
            read_arrays(tmp_path / name)
        assert error.value.source == str(tmp_path / name)


def test_read_params_axes_of_length_one_and_wrong_shapes(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(TREE))
    table = [Weight("a/kernel", "kernel"), Weight("mean", "norm/mean")]
    shapes = {"kernel": np.empty((2, 3)), "norm": {"mean": np.empty(4)}}
    params = read_params(tmp_path / "x.ckpt", table, shapes)
    np.testing.assert_array_equal(params["kernel"], TREE["a"]["kernel"][0])
    assert params["norm"]["mean"].shape == (4,)
    with pytest.raises(BadInput, match="'mean' has shape"):
        read_params(tmp_path / "x.ckpt", table, shapes | {"norm": {"mean": np.empty(5)}})
    with pytest.raises(BadInput, match="'b' is missing"):
        read_params(tmp_path / "x.ckpt", [Weight("b", "kernel")], shapes)
