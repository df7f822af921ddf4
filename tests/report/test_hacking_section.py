"""The report's section on reward hacking: one row per round, alarming or not, and nothing in it is
markup."""

import dataclasses
import json

import pytest

from pav_jax.records import Candidate
from pav_jax.report import write_report
from pav_jax.storage.records import SegmentWriter

EVIL = "held_out:<script>alert(1)</script>"


def report(folder, longer=False, judge=None, **rewards):
    (folder / "config.json").write_text(
        json.dumps({"rewards": {"weights": {"AES": 1.0}} | rewards})
    )
    scored = {"AES": 0.0, "DD": 0.5} | ({judge: 1.0} if judge else {})
    own = [
        Candidate(f"0 {p}", f"a {p} <b>", f"a {p} <b>", 0, 0, (), "user", 1, scored)
        for p in range(12)
    ]
    pool = own + [
        dataclasses.replace(
            c,
            key=f"{n} {i}",
            round=n,
            refined="w " * (4 if n == 1 or not longer else 8),
            scores=c.scores | {"AES": i + n / 10, "DD": 0.5 + i / 100},
        )
        for n in (1, 2)
        for i, c in enumerate(own)
    ]
    SegmentWriter(folder / "pool").write(pool)
    text = write_report(folder).read_text()
    return text[text.index('<section id="hacking">') :].split("</section>")[0], text


def test_every_round_has_a_row_also_when_nothing_is_alarming(tmp_path):
    section, text = report(tmp_path)
    assert "Signs of reward hacking" in section and '<a href="#hacking">' in text
    assert [f"evolve, round {n}" in section for n in (0, 1, 2, 3)] == [False, True, True, False]
    assert (
        section.count("nothing alarming") == 2
        and section.count("no held-out judge is configured") == 2
    )
    assert "8.0 words" not in section


def test_an_alarm_is_told_in_words_and_figures(tmp_path):
    section, _ = report(tmp_path, longer=True)
    assert section.count("nothing alarming") == 1
    assert "the rewrites have 8.0 words, 2.00 times the 4.0 of the first round" in section


@pytest.mark.parametrize(
    "judge, shown", [(None, "none has a score"), (EVIL, "&lt;script&gt;alert(1)")]
)
def test_a_configured_judge_is_named_and_escaped(tmp_path, judge, shown):
    section, text = report(tmp_path, judge=judge, held_out=[{"name": "aesthetic"}])
    assert shown in section and "no held-out judge" not in section
    assert (
        text.count("<script>") == 1
        and "inf" not in section.replace("info", "")
        and "nan" not in section
    )


def test_without_rounds_there_is_no_section(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    assert "hacking" not in write_report(tmp_path).read_text().split("<body>")[1]
