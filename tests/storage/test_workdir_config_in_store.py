"""A work directory in an object store accepts another configuration until it has a result."""

import pytest

from pav_jax import config as configuration
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path, list_names
from pav_jax.storage.files import write_atomic
from pav_jax.workdir_config import bind_config_to_workdir, saved_config


def test_bind_config_to_workdir_in_an_object_store(store):
    configs = [configuration.load(None, [f"--config.seed={seed}"]) for seed in (1, 2, 3)]
    workdir = as_path(f"{store.address}/bound/x")
    bind_config_to_workdir(configs[0], workdir)
    write_atomic(workdir / "logs" / "spent.json", b"{}")
    bind_config_to_workdir(configs[1], workdir)
    assert saved_config(workdir)["seed"] == 2 and list_names(workdir) == ["config.json", "logs"]
    write_atomic(workdir / "pool" / "0-0.jsonl", b"{}")
    with pytest.raises(BadInput, match="made with seed = 2, now it is 3"):
        bind_config_to_workdir(configs[2], workdir)
    assert saved_config(workdir)["seed"] == 2
