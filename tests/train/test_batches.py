"""From JSON Lines to padded batches: order, masks, cuts and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.records import write_jsonl
from pav_jax.train import batches, tfds_builders
from tests.tiny import language_model as tiny
from tests.tiny.language_model import WORDS, make_encoder


def pairs(count):
    letters = WORDS[5:]
    return [PromptPair(letters[i % 26], " ".join(letters[: 1 + i % 7])) for i in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "pairs.jsonl", pairs(10))
    return tfds_builders.data_source(
        tfds_builders.SftPairs, folder / "pairs.jsonl", folder / "tfds"
    )


def make(source, **changes):
    options = dict(
        encoder=make_encoder(), answer_fields=("refined",), lengths=(16,), batch_size=4, seed=7
    )
    return batches.make_batches(source, **(options | changes))


def test_data_source_texts_and_lines(tmp_path):
    records = [Preference("ä 🎬 <b>", "c\nc", "r", 0.5), Preference("p", "\u2028", "q", -1.0)]
    write_jsonl(tmp_path / "p.jsonl", records)
    source = tfds_builders.data_source(
        tfds_builders.Preferences, tmp_path / "p.jsonl", tmp_path / "tfds"
    )
    got = [
        (e["prompt"].decode(), e["chosen"].decode(), e["rejected"].decode(), e["margin"], e["line"])
        for e in source
    ]
    assert got == [("ä 🎬 <b>", "c\nc", "r", 0.5, 1), ("p", "\u2028", "q", -1.0, 2)]


def test_data_source_without_tensorflow(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", pairs(3))
    program = f"""
import sys
from pathlib import Path
from pav_jax.train import batches, tfds_builders
folder = Path({str(tmp_path)!r})
source = tfds_builders.data_source(tfds_builders.SftPairs, folder / "p.jsonl", folder)
assert len(source) == 3 and source[2]["line"] == 3
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
    assert done.stdout == b""  # TFDS would print about downloads


def test_data_source_changed_file(tmp_path):
    path = tmp_path / "p.jsonl"
    for count in (3, 5):
        write_jsonl(path, pairs(count))
        assert (
            len(tfds_builders.data_source(tfds_builders.SftPairs, path, tmp_path / "tfds")) == count
        )


@pytest.mark.parametrize("name", ["dataset_info.json", "*.array_record*"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "fewer"])
def test_data_source_damaged_is_made_again(name, damage, tmp_path):
    def prepare():
        return tfds_builders.data_source(tfds_builders.SftPairs, path, tmp_path / "tfds")

    path = tmp_path / "p.jsonl"
    write_jsonl(path, [PromptPair("a", "b"), PromptPair("c", "d")])
    prepare()
    (file,) = (tmp_path / "tfds").rglob(name)
    content = file.read_bytes()
    file.unlink()
    middle = len(content) // 2
    if damage == "fewer":  # whole files of other examples
        write_jsonl(tmp_path / "q.jsonl", [PromptPair("a", "b")])
        tfds_builders.data_source(tfds_builders.SftPairs, tmp_path / "q.jsonl", tmp_path / "q")
        (other,) = (tmp_path / "q").rglob(name)
        file.write_bytes(other.read_bytes())
    elif damage != "missing":
        file.write_bytes(
            {
                "empty": b"",
                "cut": content[: len(content) // 3],
                "changed": content[:middle] + b"\xff\xfe\xfd" + content[middle + 3 :],
            }[damage]
        )
    with pytest.warns(UserWarning, match="made again from") as warned:
        source = prepare()
    assert len(warned) == 1
    assert [source[i]["refined"] for i in range(2)] == [b"b", b"d"]
    assert len(prepare()) == 2  # without a warning


def test_data_source_empty_file(tmp_path):
    (tmp_path / "p.jsonl").write_text("")
    with pytest.raises(BadInput, match="p.jsonl: contains no PromptPair; lower"):
        tfds_builders.data_source(tfds_builders.SftPairs, tmp_path / "p.jsonl", tmp_path / "tfds")


def test_survey_truncated_examples(source):
    survey = batches.survey(source, make_encoder(max_length=9), ("refined",), "pairs.jsonl")
    assert (
        survey.num_examples,
        survey.longest,
        survey.truncated_prompts,
        survey.truncated_answers,
    ) == (10, 9, 0, 3)
    assert "3 answers truncated" in str(survey)
    assert (
        batches.survey(
            source, make_encoder(max_prompt_length=3), ("refined",), "x"
        ).truncated_prompts
        == 10
    )


def test_survey_leaves_out_short_truncated_answers():
    long = "b c d e f g"
    texts = [("a", long), ("a a a a", long), ("a a a a", "b")]
    examples = [
        {"prompt": prompt, "refined": refined, "line": line}
        for line, (prompt, refined) in enumerate(texts, 1)
    ]
    survey = batches.survey(examples, make_encoder(max_length=9), ("refined",), "pairs.jsonl")
    assert survey.indices == (0, 2) and survey.num_examples == 2
    assert "1 left out" in str(survey)
    subset = batches.Subset(examples, survey.indices)
    assert [example["line"] for example in subset] == [1, 3] and len(subset) == 2
    with pytest.raises(BadInput, match=r"pairs\.jsonl: no example .* max_length=9"):
        batches.survey(examples[1:2], make_encoder(max_length=9), ("refined",), "pairs.jsonl")


def test_survey_empty_answer(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [*pairs(2), PromptPair("a", " ")])
    source = tfds_builders.data_source(
        tfds_builders.SftPairs, tmp_path / "p.jsonl", tmp_path / "tfds"
    )
    with pytest.raises(BadInput, match=r"p\.jsonl:3: 'refined' is empty"):
        batches.survey(source, make_encoder(), ("refined",), tmp_path / "p.jsonl")


def test_survey_token_outside_vocabulary(source):
    with pytest.raises(BadInput, match="outside the model's vocabulary of 8"):
        batches.survey(source, make_encoder(vocabulary=8), ("refined",), "p.jsonl")


def test_make_batches_epochs(source):
    stream = make(source, batch_size=10)
    firsts = [
        tuple(next(stream)["ids"][:, 2]) for _ in range(3)
    ]  # the user's word names the example
    assert all(sorted(f) == list(range(5, 15)) for f in firsts)
    assert len(set(firsts)) == 3


def test_make_batches_seed(source):
    streams = (make(source), make(source), make(source, seed=8))
    a, b, c = ([next(stream)["ids"] for _ in range(5)] for stream in streams)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_make_batches_restored_state(source):
    stream = make(source)
    [next(stream) for _ in range(3)]
    state = stream.get_state()
    want = [next(stream)["ids"] for _ in range(3)]
    again = make(source)
    again.set_state(state)
    np.testing.assert_array_equal([next(again)["ids"] for _ in range(3)], want)


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_make_batches_answer_mask(source, pad):
    batch = next(make(source, encoder=make_encoder(tiny.make_tokenizer(pad))))
    for row, answer in zip(batch["ids"], batch["answer"], strict=True):
        length = 4 + answer.sum()
        assert not answer[:4].any() and answer[4:length].all() and not answer[length:].any()
        assert row[length - 1] == WORDS.index("</s>")
    assert batch["tokens"] == sum(4 + a.sum() for a in batch["answer"])


def test_make_batches_length_buckets(source):
    shapes = {
        next(stream)["ids"].shape
        for stream in [make(source, lengths=(8, 16), batch_size=1)]
        for _ in range(10)
    }
    assert shapes == {(1, 8), (1, 16)}


def test_make_batches_larger_than_data(source):
    assert next(make(source, batch_size=25))["ids"].shape == (25, 16)


@pytest.mark.parametrize(
    "configured, longest, want",
    [((), 17, (32,)), ((), 63, (64,)), ((8, 16, 64), 12, (8, 16)), ((8, 16), 40, (8, 16, 40))],
)
def test_padded_lengths(configured, longest, want):
    assert batches.padded_lengths(configured, longest, 64) == want


def test_make_batches_preferences_with_columns(tmp_path):
    write_jsonl(
        tmp_path / "p.jsonl", [Preference("a", "b c", "d", 1.0), Preference("e", "f", "g h i", 1.0)]
    )
    source = tfds_builders.data_source(
        tfds_builders.Preferences, tmp_path / "p.jsonl", tmp_path / "tfds"
    )
    column = np.asarray([[1, 2], [3, 4]], np.float32)
    batch = next(
        make(
            source,
            answer_fields=("chosen", "rejected"),
            batch_size=2,
            columns={"reference": column},
        )
    )
    order = [0, 1] if batch["ids"][0, 0, 2] == WORDS.index("a") else [1, 0]
    np.testing.assert_array_equal(batch["reference"], column[order])
    assert batch["ids"].shape == (2, 2, 16)
    np.testing.assert_array_equal(batch["answer"].sum(-1), np.asarray([[3, 2], [2, 4]])[order])


@pytest.mark.parametrize("seed", range(5))
def test_pack_rows(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(8, 200))
    lengths = rng.integers(1, capacity + 1, int(rng.integers(1, 60))).tolist()
    rows = batches.pack_rows(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
    loads = [sum(lengths[i] for i in row) for row in rows]
    assert all(
        a + b > capacity for i, a in enumerate(loads) for b in loads[i + 1 :]
    )  # no two rows would fit in one


@pytest.mark.parametrize(
    "changes", [{}, {"lengths": (8, 16)}, {"pack_multiple": 4, "lengths": (24,)}]
)
def test_make_batches_two_processes(source, changes):
    whole, *parts = (
        make(source, batch_size=8, **changes, process=process)
        for process in ((0, 1), (0, 2), (1, 2))
    )
    for _ in range(5):
        want = next(whole)
        halves = [next(part) for part in parts]
        assert want["tokens"] == sum(half["tokens"] for half in halves)
        for name in want.keys() - {"tokens"}:
            np.testing.assert_array_equal(
                want[name], np.concatenate([half[name] for half in halves])
            )
