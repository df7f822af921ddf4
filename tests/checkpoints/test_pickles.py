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


class Evil:
    def __init__(self, what):
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [3, 4])
def test_nested_arrays_are_read_under_joined_names(tmp_path, protocol):
    path = tmp_path / "x.ckpt"
    content = pickle.dumps(TREE, protocol)
    if protocol == 3:  # there names are lines of text: as numpy 1 wrote them
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(content)
    found = read_arrays(path)
    assert set(found) == {"a/kernel", "mean"}
    np.testing.assert_array_equal(found["a/kernel"], TREE["a"]["kernel"])


def test_nothing_else_is_ever_run(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "x.ckpt"
    for what in (
        (os.system, (f"touch {mark}",)),
        (eval, ("1",)),
        (np.load, ("x",)),
        (getattr, ("x", "upper")),
    ):
        path.write_bytes(pickle.dumps({"a": Evil(what)}))
        with pytest.raises(BadInput, match="x.ckpt: not a pickle of numpy arrays .it names"):
            read_arrays(path)
    assert not mark.exists()


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
def test_what_holds_no_arrays_is_named(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(BadInput, match="x.ckpt"):
        read_arrays(tmp_path / "x.ckpt")
    with pytest.raises(BadInput, match="none.ckpt: cannot be read"):
        read_arrays(tmp_path / "none.ckpt")


def test_axes_of_one_are_dropped_and_other_shapes_refused(tmp_path):
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
