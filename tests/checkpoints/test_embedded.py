"""Names of what comes with the package."""

import pytest

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput


def test_embedded_names_are_found_and_others_pass_or_are_refused():
    assert "mini:prompts/evolve.txt" in embedded.names()
    assert all(embedded.resolve(name) for name in embedded.names())
    assert embedded.resolve("mini:prompts/evolve.txt") == str(
        embedded.ROOT / "prompts" / "evolve.txt"
    )
    assert embedded.resolve("some/where.txt") == "some/where.txt"
    with pytest.raises(BadInput, match="mini:nothing.*prompts/evolve.txt"):
        embedded.resolve("mini:nothing")


def test_the_embedded_booster_is_the_untuned_rewriter_where_none_was_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "CHECKPOINTS", tmp_path)
    assert embedded.booster() == tmp_path / "rewriter"
    (tmp_path / "booster").mkdir()
    assert embedded.booster() == tmp_path / "booster"
