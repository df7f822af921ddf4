import json

from pav_jax.report import write_report
from pav_jax.report.contents import read_contents
from tests.trust.fakes import PROMPTS, Generator, suite
from tests.trust.test_trust import config

EVIL = '<script>alert("x")</script>'


def test_the_report_shows_the_verdicts_and_escapes_them(tmp_path):
    from pav_jax.trust.trust import trust

    result = trust(config(), PROMPTS, Generator(), suite(), tmp_path)
    text = write_report(tmp_path).read_text()
    section = text[text.index('<section id="trust">') :]
    for words in ("does not read the prompt", "noisy", "usable", "low contrast", "AUC 0.50"):
        assert words in section
    assert '<a href="#trust">' in text
    result["rewards"] = {EVIL: result["rewards"]["MPS"] | {"verdict": EVIL, "why": [EVIL]}}
    result["correlation"] = {EVIL: {EVIL: None}}
    (tmp_path / "trust.json").write_text(json.dumps(result))
    text = write_report(tmp_path).read_text()
    assert (
        EVIL not in text and "&lt;script&gt;alert" in text and text.count("<script") == 1
    )  # our own


def test_a_report_without_it_has_no_such_section(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    assert read_contents(tmp_path).trust is None
    assert 'id="trust"' not in write_report(tmp_path).read_text()
