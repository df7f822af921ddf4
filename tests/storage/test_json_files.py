"""JSON files."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json, write_json


def test_write_json_round_trip(tmp_path):
    path = tmp_path / "folder" / "config.json"
    write_json(path, {"b": 1, "a": "ä 🎈"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ä 🎈"\n}\n'
    assert read_json(str(path)) == {"b": 1, "a": "ä 🎈"}
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", [None, "", '{"a": ', "{'a': 1}"])
def test_read_json_missing_or_broken_file(tmp_path, text):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput) as error:
        read_json(path)
    assert error.value.source == str(path)
    assert "\n" not in str(error.value)
