"""Training checkpoints: whole or not there, with the data iterator beside the arrays."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.errors import BadInput


def make_iterator():
    return iter(grain.MapDataset.range(10).repeat(5).batch(3).to_iter_dataset())


def make_state(value):
    return {
        "step": jnp.int32(value),
        "trained": {"lora": {"a": jnp.full((2, 3), value, jnp.float32)}},
    }


@pytest.fixture
def filled(tmp_path):
    """Checkpoints of steps 1 to 4, the newest two kept; the batches that follow step 4."""
    iterator = make_iterator()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 5):
            next(iterator)
            checkpoints.save(step, make_state(step), iterator)
    return tmp_path, next(iterator)


def restore(folder):
    iterator = make_iterator()
    with Checkpoints(folder, keep=2) as checkpoints:
        found = checkpoints.restore(make_state(0), iterator)
    return found, next(iterator)


def test_newest_state_and_the_batch_that_follows_it_come_back(filled):
    folder, follows = filled
    (step, state), batch = restore(folder)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, state, make_state(4))
    np.testing.assert_array_equal(batch, follows)


def test_only_the_newest_are_kept(filled):
    assert sorted(p.name for p in filled[0].iterdir() if p.name.isdigit()) == ["3", "4"]


def test_empty_folder_gives_nothing(tmp_path):
    found, batch = restore(tmp_path / "new")
    assert found is None
    np.testing.assert_array_equal(batch, [0, 1, 2])


@pytest.mark.parametrize("cut", ["state", "data"])
def test_torn_checkpoint_gives_way_to_the_one_before(filled, cut):
    folder, _ = filled
    for file in (folder / "4" / cut).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.warns(UserWarning, match="4: not a whole checkpoint"):
        (step, state), batch = restore(folder)
    assert step == 3 and float(state["trained"]["lora"]["a"][0, 0]) == 3
    np.testing.assert_array_equal(batch, [9, 0, 1])
    assert not (folder / "4").exists()


def test_saved_values_are_those_of_the_moment_of_saving(tmp_path):
    """A donated buffer is overwritten by the next step while the files are still being written."""
    bump = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, iterator = make_state(1), make_iterator()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, iterator)
        for _ in range(20):
            state = bump(state)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path)[0][1], make_state(1))


def test_place_that_cannot_hold_checkpoints_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file/checkpoints: cannot hold checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints")
