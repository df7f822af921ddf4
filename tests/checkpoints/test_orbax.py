"""Training checkpoints."""

import errno
import gc
import os
import shutil
import warnings

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pav_jax.checkpoints.orbax import Checkpoints
from pav_jax.errors import BadInput, TemporaryFailure
from tests.tiers import first_fast


def make_iterator():
    return iter(grain.MapDataset.range(10).repeat(5).batch(3).to_iter_dataset())


def make_state(value):
    return {
        "step": jnp.int32(value),
        "trained": {"lora": {"a": jnp.full((2, 3), value, jnp.float32)}},
    }


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    """A folder with checkpoints of steps 1 to 4, two of them kept, and the batch after step 4."""
    folder = tmp_path_factory.mktemp("checkpoints")
    iterator = make_iterator()
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in range(1, 5):
            next(iterator)
            checkpoints.save(step, make_state(step), iterator)
    return folder, next(iterator)


@pytest.fixture
def filled(four_steps, tmp_path):
    """A copy of `four_steps`."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(four_steps[0], folder)
    return folder, four_steps[1]


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
    assert (folder / "4.unreadable-1" / part).is_dir()


def damage_file(name, how):
    """A function that damages one file of a step, or None where that file does not matter."""

    def damage(step):
        path = next(step.glob(name))
        content = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: len(content) // 3])
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "changed":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + b"\xff\xfe\xfd" + content[middle + 3 :])
        elif how == "folder":
            path.mkdir()

    return damage


FILES = ("data/metadata", "state/manifest.ocdbt", "state/d/*")
DAMAGES = {
    **{
        f"{name} {how}": damage_file(name, how)
        for name in FILES
        for how in ("cut", "empty", "changed", "missing", "folder")
    },
    "state/_METADATA cut": damage_file("state/_METADATA", "cut"),
    "state/array_metadatas empty": damage_file("state/array_metadatas/*", "empty"),
    "no data": lambda step: shutil.rmtree(step / "data"),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "nothing": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("name", first_fast(DAMAGES, 5))
def test_restore_corrupt_files_are_set_aside(name, filled, capfd):
    folder, _ = filled
    DAMAGES[name](folder / "4")
    names = sorted(path.name for path in (folder / "4").rglob("*"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored, batch = restore(folder)
        gc.collect()
    assert restored[0] == 3
    assert [str(w.message).partition(" (")[0] for w in caught if w.category is UserWarning] == [
        f"{folder}/4: incomplete or corrupt checkpoint"
    ]
    assert sorted(path.name for path in (folder / "4.unreadable-1").rglob("*")) == names
    assert capfd.readouterr().err == ""


def test_save_after_set_aside(filled):
    folder, _ = filled
    for number in (1, 2):
        (folder / "4" / "data" / "metadata").unlink()
        with pytest.warns(UserWarning, match=f"4.unreadable-{number}"):
            assert restore(folder)[0][0] == 3
        with Checkpoints(folder, keep=2) as checkpoints:
            checkpoints.save(4, make_state(4), make_iterator())
        assert restore(folder)[0][0] == 4


PASSING = [
    PermissionError(errno.EACCES, "Permission denied", "/mnt/nfs/x"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EMFILE, "Too many open files"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    *(
        ValueError(f'{status}: Error opening "zarr" driver: Error reading gs://bucket/run/4\nmore')
        for status in (
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            "ABORTED",
            "INTERNAL",
            "UNKNOWN",
        )
    ),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ValueError("Requested shape: (4,) is not compatible with the stored shape: (2, 3)."),
    TypeError("unexpected argument"),
    KeyError("next_index"),
]


def test_restore_passing_error_changes_nothing(filled, monkeypatch):
    folder, next_batch = filled
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with Checkpoints(folder) as checkpoints:
        for error in PASSING:

            def fail(*_, error=error, **__):
                raise error

            with monkeypatch.context() as patch, pytest.raises(TemporaryFailure) as caught:
                patch.setattr(ocp.CheckpointManager, "restore", fail)
                checkpoints.restore(make_state(0), make_iterator())
            assert caught.value.source == str(folder)
            message = str(caught.value)
            assert "it is unchanged" in message and "\n" not in message, message
            assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (step, _), batch = restore(folder)
    assert step == 4
    np.testing.assert_array_equal(batch, next_batch)


def test_restore_folder_of_another_shape_changes_nothing(filled):
    folder, _ = filled
    state: dict = make_state(0)
    state["trained"]["lora"]["a"] = jnp.zeros((5, 3))
    with pytest.raises(BadInput, match="unchanged"), Checkpoints(folder) as checkpoints:
        checkpoints.restore(state, make_iterator())
    assert (folder / "4").is_dir()


LEFTOVERS = ("4", "4.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17", "4.unreadable-1", "tmp_x")


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("before_opening", [True, False])
def test_save_beside_leftovers(is_folder, before_opening, filled):
    """What an interrupted run leaves never blocks the step that was being saved."""
    folder, _ = filled
    shutil.rmtree(folder / "4")

    def leave():
        for name in LEFTOVERS:
            if is_folder:
                (folder / name / "state").mkdir(parents=True)
                (folder / name / "state" / "x").write_text("x")
            else:
                (folder / name).write_text("x")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if before_opening:
            leave()
        with Checkpoints(folder) as checkpoints:
            if not before_opening:
                leave()
            restored = checkpoints.restore(make_state(0), make_iterator())
            assert restored is not None and restored[0] == 3
            checkpoints.save(4, make_state(4), make_iterator())
        assert restore(folder)[0][0] == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_init_unreadable_folder(filled):
    folder, _ = filled
    folder.chmod(0)
    try:
        with pytest.raises(BadInput, match="permissions"):
            Checkpoints(folder)
    finally:
        folder.chmod(0o700)
    assert restore(folder)[0][0] == 4


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
