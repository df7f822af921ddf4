"""Training checkpoints."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
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
    """A folder with checkpoints of steps 1 to 4, two of them kept, and the batch after step 4."""
    iterator = make_iterator()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 5):
            next(iterator)
            checkpoints.save(step, make_state(step), iterator)
    return tmp_path, next(iterator)


def restore(folder):
    iterator = make_iterator()
    with Checkpoints(folder, keep=2) as checkpoints:
        restored = checkpoints.restore(make_state(0), iterator)
    return restored, next(iterator)


def test_restore_newest_state_and_next_batch(filled):
    folder, next_batch = filled
    (step, state), batch = restore(folder)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, state, make_state(4))
    np.testing.assert_array_equal(batch, next_batch)


def test_save_keeps_only_the_newest(filled):
    assert sorted(p.name for p in filled[0].iterdir() if p.name.isdigit()) == ["3", "4"]


def test_restore_empty_folder(tmp_path):
    restored, batch = restore(tmp_path / "new")
    assert restored is None
    np.testing.assert_array_equal(batch, [0, 1, 2])


@pytest.mark.parametrize("part", ["state", "data"])
def test_restore_damaged_checkpoint_uses_the_one_before(filled, part):
    folder, _ = filled
    for file in (folder / "4" / part).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.warns(UserWarning, match="4: incomplete or corrupt checkpoint"):
        (step, state), batch = restore(folder)
    assert step == 3
    assert float(state["trained"]["lora"]["a"][0, 0]) == 3
    np.testing.assert_array_equal(batch, [9, 0, 1])
    assert not (folder / "4").exists()


def test_restore_without_memory_keeps_the_checkpoint(filled, monkeypatch):
    folder, _ = filled

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(MemoryError):
        restore(folder)
    assert (folder / "4").exists()


def test_save_while_buffers_are_donated(tmp_path):
    """A donated buffer is overwritten by the next step while the files are still being written."""
    bump = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(1)
    iterator = make_iterator()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, iterator)
        for _ in range(20):
            state = bump(state)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path)[0][1], make_state(1))


def test_init_unusable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as error:
        Checkpoints(tmp_path / "file" / "checkpoints")
    assert error.value.source == str(tmp_path / "file" / "checkpoints")
