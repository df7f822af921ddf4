"""The files that weights are written to."""

import numpy as np

from pav_jax.checkpoints.safetensors import write_tensors


def test_whoever_may_read_the_folder_may_read_the_weights(tmp_path):
    tmp_path.chmod(0o755)
    write_tensors(tmp_path, {"a": np.zeros(2, np.float32)}, "model")
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
