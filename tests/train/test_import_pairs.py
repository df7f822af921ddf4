"""Published pairs come in whole, and broken ones are named."""

import json

import pytest

from pav_jax.errors import BadInput
from pav_jax.records import PromptPair
from pav_jax.storage.records import read_jsonl, write_jsonl
from pav_jax.train.import_pairs import import_pairs

PAIRS = [
    PromptPair("a dog", "A brown dog, seen from afar."),
    PromptPair("ein Mädchen", "Ein Mädchen, im Regen."),
]


def test_import_pairs_json_and_jsonl(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([[p.prompt, p.refined] for p in PAIRS]))
    write_jsonl(tmp_path / "p.jsonl", PAIRS)
    for name in ("p.json", "p.jsonl"):
        assert (
            read_jsonl(import_pairs(tmp_path / name, tmp_path / "out" / name), PromptPair) == PAIRS
        )


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "must hold a list"),
        ('[["a", "b"], ["a"]]', "item 1 "),
        ('[["a", 3]]', "item 0 "),
        ('[["a", " "]]', "item 0 "),
    ],
)
def test_import_pairs_invalid_file(text, message, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        import_pairs(tmp_path / "p.json", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(BadInput, match="no such file"):
        import_pairs(tmp_path / "gone.json", tmp_path / "out.jsonl")
