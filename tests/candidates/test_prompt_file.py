import pytest

from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.components import read_prompts
from pav_jax.errors import BadInput


@pytest.mark.parametrize(
    "name",
    ["", "none.txt", "folder", "file.txt/below", "latin.txt", "empty.txt", "x" * 5000, "a\0"],
)
def test_read_prompts_names_the_field(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("a dog\n")
    (tmp_path / "latin.txt").write_bytes(b"a dog\nan \xe9toile\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(BadInput) as error:
        read_prompts(name, "evolve.prompts")
    assert error.value.field == "evolve.prompts" and error.value.source == name
    assert str(error.value).startswith(f"evolve.prompts={name[:20]}")


def test_read_prompt_file_unbounded():
    with pytest.raises(BadInput, match="over 64 MiB"):
        read_prompt_file("/dev/zero")


def test_read_prompt_file_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa dog\n")
    assert read_prompt_file(tmp_path / "a.txt") == "a dog\n"
