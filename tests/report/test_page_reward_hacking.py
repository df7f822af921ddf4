"""The report's section on reward-hacking warnings."""

import dataclasses
import json

import pytest

from pav_jax.records import Candidate
from pav_jax.report import write_report
from pav_jax.storage.records import SegmentFolder

MARKUP = "held_out:<script>alert(1)</script>"


def write_section(folder, second_round_words=4, evaluator=None, **rewards):
    """Writes a pool of two rounds and its report; returns (the section, the whole page)."""
    config = {"rewards": {"weights": {"AES": 1.0}} | rewards}
    (folder / "config.json").write_text(json.dumps(config))
    scores = {"AES": 0.0, "DD": 0.5} | ({evaluator: 1.0} if evaluator else {})
    pool = [
        Candidate(f"0 {i}", f"a {i} <b>", f"a {i} <b>", 0, 0, (), "user", 1, scores)
        for i in range(12)
    ]
    for round, words in ((1, 4), (2, second_round_words)):
        pool += [
            dataclasses.replace(
                candidate,
                key=f"{round} {i}",
                round=round,
                refined="w " * words,
                scores=candidate.scores | {"AES": i + round / 10, "DD": 0.5 + i / 100},
            )
            for i, candidate in enumerate(pool[:12])
        ]
    SegmentFolder(folder / "pool", Candidate).write(pool)
    page = write_report(folder).read_text()
    start = page.index('<section id="reward-hacking">')
    return page[start:].split("</section>")[0], page


def test_write_report_lists_every_round(tmp_path):
    section, page = write_section(tmp_path)
    assert "Reward-hacking warnings" in section
    assert '<a href="#reward-hacking">' in page
    listed = [f"evolve, round {n}" in section for n in (0, 1, 2, 3)]
    assert listed == [False, True, True, False]
    assert section.count("none</td>") == 2
    assert section.count("none configured") == 2
    assert "8.0 words" not in section


def test_write_report_shows_warnings(tmp_path):
    section, _ = write_section(tmp_path, second_round_words=8)
    assert section.count("none</td>") == 1
    assert "rewrites have 8.0 words on average, 2.00 times the 4.0 of the first round" in section
    assert "1.5 times the words of the first round’s rewrites" in " ".join(section.split())


@pytest.mark.parametrize(
    "evaluator, shown", [(None, "no scores"), (MARKUP, "&lt;script&gt;alert(1)")]
)
def test_write_report_escapes_evaluators(tmp_path, evaluator, shown):
    section, page = write_section(tmp_path, evaluator=evaluator, held_out=[{"name": "aesthetic"}])
    assert shown in section
    assert "none configured" not in section
    assert page.count("<script>") == 1
    assert "inf" not in section
    assert "nan" not in section


def test_write_report_without_rounds(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    body = write_report(tmp_path).read_text().split("<body>")[1]
    assert "reward-hacking" not in body
