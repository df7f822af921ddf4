"""The report's section on the trust in rewards."""

import json

from pav_jax.report import write_report
from pav_jax.report.contents import read_contents
from pav_jax.trust.trust import trust
from tests.trust.fakes import PROMPTS, PatternGenerator, make_suite
from tests.trust.test_trust import make_config

MARKUP = '<script>alert("x")</script>'


def test_write_report_shows_verdicts(tmp_path):
    trust(make_config(), PROMPTS, PatternGenerator(), make_suite(), tmp_path)
    page = write_report(tmp_path).read_text()
    section = page[page.index('<section id="trust">') :]
    for words in ("insensitive to the prompt", "noisy", "usable", "low contrast", "AUC 0.50"):
        assert words in section
    assert '<a href="#trust">' in page


def test_write_report_escapes_verdicts(tmp_path):
    result = trust(make_config(), PROMPTS, PatternGenerator(), make_suite(), tmp_path)
    entry = result["rewards"]["MPS"] | {"verdict": MARKUP, "reasons": [MARKUP]}
    result["rewards"] = {MARKUP: entry}
    result["score_correlations"] = {MARKUP: {MARKUP: None}}
    (tmp_path / "trust.json").write_text(json.dumps(result))
    page = write_report(tmp_path).read_text()
    assert MARKUP not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script") == 1  # the page's own


def test_write_report_without_trust(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    assert read_contents(tmp_path).trust is None
    assert 'id="trust"' not in write_report(tmp_path).read_text()
