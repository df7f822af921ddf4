import json

import pytest

from pav_jax.errors import BadInput
from pav_jax.report import write_report
from pav_jax.report.votes import write_votes
from pav_jax.report.votes_page import write_votes_page
from pav_jax.storage.addresses import as_path
from pav_jax.storage.files import write_atomic
from tests.report.compared_videos import make_votes, read_key, write_measurements


@pytest.fixture
def workdir(tmp_path):
    write_measurements(tmp_path)
    write_votes_page(tmp_path)
    return tmp_path


def write_file(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_write_votes(workdir):
    first = write_file(workdir / "a.jsonl", make_votes(workdir, ["my_booster"] * 4 + ["tie"]))
    lines = make_votes(workdir, ["my_booster", "original", "tie"], "b")
    second = write_file(workdir / "b.jsonl", lines)
    result = write_votes(workdir, [first, second])
    assert json.loads((workdir / "votes.json").read_text()) == result
    assert (result["voters"], result["votes"]) == (2, 8)
    (row,) = result["pairs"]
    assert row["systems"] == ["my_booster", "original"] and row["set"] is None
    assert (row["wins"], row["ties"], row["losses"]) == (5, 2, 1)
    # prompts: 1, (1 + 0) / 2, (1 + 0.5) / 2, 1 and a tie
    assert row["win_rate"][0] == pytest.approx((1 + 0.5 + 0.75 + 1 + 0.5) / 5)
    assert row["win_rate"][1] < 0.5 < row["win_rate"][0] < row["win_rate"][2] < 1
    assert result["agreement"]["prompts"] == 3
    assert result["agreement"]["same"] == pytest.approx(1 / 3)


def test_write_votes_latest_counts(workdir):
    old = write_file(workdir / "old.jsonl", make_votes(workdir, ["original"] * 5, time=1))
    new = write_file(workdir / "new.jsonl", make_votes(workdir, ["my_booster"] * 2, time=2))
    for files in ([old, new, new], [new, old]):
        (row,) = write_votes(workdir, files)["pairs"]
        assert (row["wins"], row["losses"], row["voters"]) == (2, 3, 1)


def test_write_report_shows_votes(workdir):
    (workdir / "config.json").write_text('{"seed": 0}')
    assert 'id="votes"' not in write_report(workdir).read_text()
    file = write_file(workdir / "a.jsonl", make_votes(workdir, ["my_booster"] * 5))
    write_votes(workdir, [file])
    page = write_report(workdir).read_text()
    section = page[page.index('<section id="votes">') :].partition("</section>")[0]
    assert '<span class="up">100%</span><small>57% to 100%</small>' in section
    assert "1 voter chose" in section and "5 votes" in section


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"choice": "both"}, "choice"),
        ({"choice": None}, "choice"),
        ({"page": "../../config"}, "page"),
        ({"comparison": "x" * 500}, "comparison"),
        ({"left": "0" * 16}, "left"),
        ({"right": 3}, "right"),
        ({"voter": ""}, "voter"),
        ({"time": -1}, "time"),
        ({"time": "now"}, "time"),
    ],
)
def test_write_votes_invalid_field(changes, field, workdir):
    lines = make_votes(workdir, ["my_booster"] * 2)
    lines[1] = json.dumps(json.loads(lines[1]) | changes)
    file = write_file(workdir / "a.jsonl", lines)
    with pytest.raises(BadInput) as error:
        write_votes(workdir, [file])
    message = str(error.value)
    assert message.startswith(f"{file}:2: {field} ") and len(message) < 500 and "\n" not in message
    assert (error.value.source, error.value.field) == (str(file), field)
    assert not (workdir / "votes.json").exists()


@pytest.mark.parametrize("text", ["", "\n\n", "{", "[]", "\xff", '{"page": "x"}'])
def test_write_votes_invalid_file(text, workdir):
    file = workdir / "a.jsonl"
    file.write_bytes(text.encode("latin-1"))
    for path in (file, workdir / "missing.jsonl", workdir):
        with pytest.raises(BadInput) as error:
            write_votes(workdir, [path])
        assert error.value.source == str(path)


def test_write_votes_both_sides_equal(workdir):
    (line,) = make_votes(workdir, ["tie"])
    vote = json.loads(line)
    file = write_file(workdir / "a.jsonl", [json.dumps(vote | {"right": vote["left"]})])
    with pytest.raises(BadInput, match="is also on the left"):
        write_votes(workdir, [file])


def test_write_votes_damaged_key(workdir):
    file = write_file(workdir / "a.jsonl", make_votes(workdir, ["tie"]))
    page, key = read_key(workdir)
    path = workdir / "votes" / f"{page}.json"
    comparison = next(iter(key["comparisons"].values()))
    comparison["videos"] = dict.fromkeys(comparison["videos"], "original")
    path.write_text(json.dumps(key))
    with pytest.raises(BadInput, match="must be of two of the systems") as error:
        write_votes(workdir, [file])
    assert error.value.source == str(path)
    path.unlink()
    with pytest.raises(BadInput, match="no votes page was written here"):
        write_votes(workdir, [file])


@pytest.mark.slow
def test_votes_in_an_object_store(store):
    workdir = as_path(f"{store.address}/votes")
    write_measurements(workdir)
    assert "</html>" in write_votes_page(workdir).read_text()
    file = workdir / "exported" / "a.jsonl"
    write_atomic(file, "\n".join(make_votes(workdir, ["my_booster"] * 5)).encode())
    (row,) = write_votes(workdir, [file])["pairs"]
    assert (row["wins"], row["prompts"]) == (5, 5)
    assert "Human votes" in write_report(workdir).read_text()
    with pytest.raises(BadInput) as error:
        write_votes(workdir, [workdir / "missing.jsonl"])
    assert error.value.source == str(workdir / "missing.jsonl")
