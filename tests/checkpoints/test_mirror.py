"""Checkpoints in object stores: Orbax's own on gs://, mirrored ones on s3://."""

import uuid

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints import mirror
from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.storage.addresses import as_path, list_names


def make_iterator():
    return iter(grain.MapDataset.range(10).repeat(5).batch(3).to_iter_dataset())


def make_state(value):
    return {"a": jnp.full((2, 3), value, jnp.float32)}


@pytest.fixture
def folder(store):
    """A folder with the checkpoints of steps 2 and 3, and the batch after step 3."""
    path = as_path(f"{store.address}/{uuid.uuid4().hex}/checkpoints")
    iterator = make_iterator()
    with Checkpoints(path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            next(iterator)
            checkpoints.save(step, make_state(step), iterator)
    return path, next(iterator)


@pytest.mark.parametrize("keep, names", [(0, ["1", "2", "3", "4"]), (3, ["2", "3", "4"])])
def test_save_after_restart_keeps_older_ones(store, keep, names):
    path = as_path(f"{store.address}/{uuid.uuid4().hex}/checkpoints")
    iterator = make_iterator()
    for steps in ((1, 2, 3), (4,)):
        with Checkpoints(path, keep) as checkpoints:
            for step in steps:
                checkpoints.save(step, make_state(step), iterator)
    assert list_names(path) == names


def restore(path):
    iterator = make_iterator()
    with Checkpoints(path, keep=2) as checkpoints:
        step, state = checkpoints.restore(make_state(0), iterator)
    return step, float(state["a"][0, 0]), next(iterator)


def test_restore_newest_of_those_kept(folder):
    path, batch = folder
    assert list_names(path) == ["2", "3"]
    step, value, restored_batch = restore(path)
    assert (step, value) == (3, 3.0)
    np.testing.assert_array_equal(restored_batch, batch)


def test_checkpoint_without_marker_is_not_restored(folder):
    path, _ = folder
    names = ("_COMPLETE.json",) if mirror.is_needed(path) else ("commit_success.txt",)
    for name in names:
        (path / "3" / name).unlink()
    assert restore(path)[:2] == (2, 2.0)
