"""Folders of safetensors."""

import numpy as np

from pav_jax.checkpoints.safetensors import write_tensors


def test_write_tensors_file_mode_follows_folder(tmp_path):
    tmp_path.chmod(0o755)
    write_tensors(tmp_path, {"a": np.zeros(2, np.float32)}, "model")
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
