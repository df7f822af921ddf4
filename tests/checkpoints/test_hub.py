"""Checkpoints by folder or Hub repository."""

import pathlib

import huggingface_hub
import pytest

from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput


def test_local_folder_existing(tmp_path):
    assert local_folder(tmp_path) == local_folder(str(tmp_path)) == tmp_path


def test_local_folder_repository(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: calls.append((name, allow_patterns)) or str(tmp_path),
    )
    assert local_folder("openai/clip-vit", ["*.json"]) == tmp_path
    assert calls == [("openai/clip-vit", ["*.json"])]


def test_local_folder_missing(monkeypatch, tmp_path):
    for name in ("/nowhere/at/all", "./runs/x/booster", "clip", tmp_path / "gone"):
        with pytest.raises(BadInput, match="no such folder"):
            local_folder(name)

    def fail(name, allow_patterns):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BadInput, match="owner/name.*network"):
        local_folder("owner/name")
    assert isinstance(local_folder(str(tmp_path)), pathlib.Path)
