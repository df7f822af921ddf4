"""JSON files."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage import json_files
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


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\xff"}',
        b"\0" * 10,
    ],
)
def test_read_json_unusable_content(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        read_json(path)
    assert error.value.source == str(path) and "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_read_json_no_regular_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "device", "loop"):
        with pytest.raises(BadInput) as error:
            read_json(tmp_path / name)
        assert error.value.source == str(tmp_path / name)


def test_read_json_object_store_refuses(tmp_path, monkeypatch):
    def refuse(*_):
        raise BadInput("gs://b/a.json: the object store refused", source="gs://b/a.json")

    monkeypatch.setattr(json_files, "read_bounded", refuse)
    with pytest.raises(BadInput, match=r"^gs://b/a.json: the object store refused$"):
        read_json(tmp_path / "a.json")


def test_read_json_byte_order_mark(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(path) == {"a": 1}
