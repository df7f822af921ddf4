"""The prompts and checkpoints that come with the package."""

from pathlib import Path

import pytest

from pav_jax.booster.booster import Booster
from pav_jax.checkpoints import embedded
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.video.video_model import VideoModel


def test_local_file_embedded_name():
    names = [name for name in embedded.names() if "prompts/" in name]
    assert "mini:prompts/evolve.txt" in names
    assert all(Path(local_file(name)).is_file() for name in names)


def test_local_folder_embedded_name():
    names = [name for name in embedded.names() if "prompts/" not in name]
    assert "mini:generator" in names
    assert all(local_folder(name).is_dir() for name in names)


@pytest.mark.parametrize("find", [local_file, local_folder])
@pytest.mark.parametrize("name", ["mini:nothing", "mini:"])
def test_local_paths_unknown_embedded_name(find, name):
    with pytest.raises(BadInput) as error:
        find(name)
    assert error.value.source == name


def test_local_file_other_paths_unchanged():
    assert local_file("some/where.txt") == "some/where.txt"
    assert local_file(Path("/a/b")) == "/a/b"
    assert local_file("gs://bucket/prompts.txt") == "gs://bucket/prompts.txt"


def test_from_pretrained_embedded_names():
    lm = LanguageModel.from_pretrained("mini:rewriter", dtype="float32")
    assert lm.name == "mini:rewriter"
    assert lm.path == str(embedded.CHECKPOINTS / "rewriter")
    assert Booster.from_pretrained("mini:booster").language_model.name == "mini:booster"
    assert VideoModel.from_pretrained("mini:generator", dtype="float32").fingerprint
