"""Checkpoints in object stores: Orbax's own on gs://, mirrored ones on s3://."""

import asyncio
import os
import urllib.parse
import uuid
import warnings

import grain
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.path import gcs_utils

from pav_jax.checkpoints import mirror
from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.errors import BadInput, TemporaryFailure
from pav_jax.storage.addresses import as_path, filesystem, list_names
from pav_jax.storage.files import write_atomic
from tests.object_stores import BUCKET, no_fault
from tests.tiers import first_slow


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "keep, names", first_slow([(3, ["2", "3", "4"]), (0, ["1", "2", "3", "4"])])
)
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


@pytest.mark.slow
def test_restore_newest_of_those_kept(folder):
    path, batch = folder
    assert list_names(path) == ["2", "3"]
    step, value, restored_batch = restore(path)
    assert (step, value) == (3, 3.0)
    np.testing.assert_array_equal(restored_batch, batch)


@pytest.mark.slow
def test_checkpoint_without_marker_is_not_restored(folder):
    path, _ = folder
    names = ("_COMPLETE.json",) if mirror.is_needed(path) else ("commit_success.txt",)
    for name in names:
        (path / "3" / name).unlink()
    assert restore(path)[:2] == (2, 2.0)


def objects(folder):
    """Name below the folder -> content, of all objects."""
    address = os.fspath(folder)
    prefix = address.partition("://")[2] + "/"
    client = filesystem(address)
    return {name.removeprefix(prefix): client.cat_file(name) for name in client.find(address)}


def is_of_bucket(path):
    return urllib.parse.urlsplit(path).path.rstrip("/") == f"/storage/v1/b/{BUCKET}"


@pytest.fixture
def objects_only(gcs_store):
    """The permissions of roles/storage.objectAdmin, which reads no metadata of the bucket."""
    gcs_utils.get_bucket.cache_clear()
    gcs_store.proxy.requests.clear()
    gcs_store.proxy.fault = lambda method, path: 403 if is_of_bucket(path) else None
    yield gcs_store
    gcs_store.proxy.fault = no_fault


@pytest.mark.slow
def test_delete_without_permission_for_the_bucket(objects_only):
    path = as_path(f"{objects_only.address}/{uuid.uuid4().hex}/checkpoints")
    write_atomic(path / "7" / "state" / "unfinished", b"x")
    iterator = make_iterator()
    with Checkpoints(path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), iterator)
    assert list_names(path) == ["2", "3"]
    assert restore(path)[:2] == (3, 3.0)
    assert any(is_of_bucket(name) for _, name in objects_only.proxy.requests)


def change(path):
    path.write_bytes(bytes(len(path.read_bytes())))


DAMAGES = {
    "changed": change,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, damage",
    first_slow(
        [
            ("data/metadata", "changed"),
            ("state/manifest.ocdbt", "cut"),
            ("data/metadata", "missing"),
            ("state/manifest.ocdbt", "changed"),
        ],
        2,
    ),
)
def test_unreadable_checkpoint_is_set_aside(folder, damage, file):
    path, _ = folder
    for number in (1, 2):
        DAMAGES[damage](path / "3" / file)
        before = objects(path / "3")
        with pytest.warns(UserWarning, match=f"renamed to 3.unreadable-{number}") as caught:
            assert restore(path)[:2] == (2, 2.0)
        assert len([w for w in caught if w.category is UserWarning]) == 1
        assert objects(path / f"3.unreadable-{number}") == before
        assert "3" not in list_names(path)
        with Checkpoints(path, keep=2) as checkpoints:
            checkpoints.save(3, make_state(3), make_iterator())
    assert restore(path)[:2] == (3, 3.0)
    assert {"3.unreadable-1", "3.unreadable-2"} <= set(list_names(path))


# what is asked for while the store fails: everything, or only some of the newest checkpoint's files
PLACES = {"all": "checkpoints", "data": "checkpoints/3/data", "arrays": "checkpoints/3/state/"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, place",
    first_slow(
        [
            (403, "data"),
            (503, "arrays"),
            ("reset", "data"),
            (403, "all"),
            (403, "arrays"),
            (503, "all"),
        ],
        3,
    ),
)
def test_passing_error_changes_nothing(folder, store, fault, place, monkeypatch):
    path, _ = folder
    before = objects(path)
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(min(seconds, 0.01), *rest))

    def fail(method, name):
        is_read = method in ("GET", "HEAD") and PLACES[place] in urllib.parse.unquote(name)
        return fault if is_read else None

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        store.proxy.fault = fail
        with pytest.raises(BadInput) as caught:
            restore(path)
        store.proxy.fault = no_fault
        assert "\n" not in str(caught.value) and os.fspath(path) in str(caught.value)
        assert isinstance(caught.value, TemporaryFailure) or fault == 403
        assert objects(path) == before
        assert restore(path)[:2] == (3, 3.0)


LEFTOVERS = ("4", "4.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17", "4.unreadable-1", "tmp_x")


@pytest.mark.slow
@pytest.mark.parametrize("is_folder", [True, False])
def test_save_beside_leftovers(folder, is_folder):
    """What an interrupted run leaves never blocks the step that was being saved."""
    path, _ = folder
    for name in LEFTOVERS:
        write_atomic(path / name / "state" / "x" if is_folder else path / name, b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Checkpoints(path, keep=2) as checkpoints:
            restored = checkpoints.restore(make_state(0), make_iterator())
            assert restored is not None and restored[0] == 3
            checkpoints.save(4, make_state(4), make_iterator())
        assert restore(path)[:2] == (4, 4.0)
