import pytest

from pav_jax.errors import BadInput
from pav_jax.plugins import import_plugin, is_plugin


@pytest.mark.parametrize(
    "name, expected",
    [
        ("my_rewards:warmth", True),
        ("package.module:Class", True),
        ("videoscore", False),
        ("mini:generator", False),
        ("diffusers:some/folder", False),
        ("http://127.0.0.1:8000/generate", False),
        ("owner/name", False),
    ],
)
def test_is_plugin_form(name, expected):
    assert is_plugin(name) is expected


def test_import_plugin_in_current_folder(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_a_user.py").write_text("class Outer:\n    value = 3\n")
    monkeypatch.chdir(tmp_path)
    assert import_plugin("plugin_of_a_user:Outer.value", "rewards.entries") == 3


@pytest.mark.parametrize("name", ["no_such_module:x", "math:no_such_name"])
def test_import_plugin_unknown(name):
    with pytest.raises(BadInput) as caught:
        import_plugin(name, "rewards.entries")
    assert caught.value.field == "rewards.entries"
    assert name in str(caught.value)
