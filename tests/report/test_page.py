import html.parser
import json

import pytest
from ml_collections import ConfigDict

from pav_jax import config as configuration
from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.report import write_report
from pav_jax.report.page import headline, number, signed
from pav_jax.workdir_config import bind_config_to_workdir
from tests.fakes import FakeGenerator, WordCountSuite

MARKUP = '<script>alert("x")</script> & "quoted" \' {{ 7 * 7 }}'


class PageParser(html.parser.HTMLParser):
    """Collects a page's tags and the URLs that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.urls = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [v for k, v in attributes if k in ("src", "href", "xlink:href", "poster")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An evaluated work directory with two prompt sets, one of which is named like markup."""
    folder = tmp_path_factory.mktemp("work")
    config = configuration.load(None, ["--config.rewriter.path=/home/somebody/models/llama"])
    bind_config_to_workdir(config, folder)
    options = dict(seeds=(0, 1), num_suffix_prompts=2, num_resamples=100, save_videos=True)
    settings = ConfigDict(dict(generator=dict(batch_size=4), evaluate=options))
    prompts = tuple(f"a cat runs {i}" for i in range(11)) + (MARKUP,)
    sets = {"near": PromptSet(prompts, (None,) * 12), MARKUP: PromptSet((MARKUP,), (MARKUP,))}
    systems = {
        "base": lambda prompts, seed: [f"{p} now" for p in prompts],
        "dpo_1": lambda prompts, seed: [f"{p} {MARKUP}" for p in prompts],
    }
    evaluate(
        settings,
        systems,
        sets,
        FakeGenerator(),
        WordCountSuite(),
        folder,
        training_prompts=["a dog"],
    )
    return folder


def test_write_report_is_self_contained(workdir):
    text = write_report(workdir).read_text()
    page = PageParser(text)
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    before_config = text[: text.index("<pre>")]  # the configuration may contain an endpoint's URL
    num_namespaces = before_config.count("http://www.w3.org")
    assert num_namespaces
    assert before_config.count("http") == num_namespaces + before_config.count("http-equiv")
    data_urls = [url for url in page.urls if url.startswith("data:video/mp4;base64,")]
    assert page.tags.count("video") == len(data_urls)


def test_write_report_shows_videos(workdir):
    page = PageParser(write_report(workdir).read_text())
    # original, base and booster of 8 + 4 prompts of the first set and 1 + 1 of the second
    assert page.tags.count("video") == (8 + 4 + 1 + 1) * 3


def test_write_report_options(workdir):
    text = write_report(workdir, title="My title", num_examples=2, num_worst=0).read_text()
    assert "<h1>My title</h1>" in text
    assert PageParser(text).tags.count("video") == (2 + 1) * 3


def test_write_report_escapes_text(workdir):
    text = write_report(workdir).read_text()
    assert PageParser(text).tags.count("script") == 1  # the page's own
    assert "&lt;script&gt;alert" in text
    assert "{{ 7 * 7 }}" in text


def test_write_report_hides_local_paths(workdir):
    text = write_report(workdir).read_text()
    assert "/home/somebody" not in text
    assert "…/models/llama" in text
    assert str(workdir) not in text


def test_write_report_is_deterministic(workdir):
    assert write_report(workdir).read_bytes() == write_report(workdir).read_bytes()


def test_write_report_examples_are_evenly_spaced(workdir):
    text = write_report(workdir).read_text()
    section = text[text.index('<section id="videos-1">') :]
    positions = [
        section.index(f'<p class="prompt" dir="auto">a cat runs {i}\n')
        for i in (0, 1, 3, 4, 6, 7, 9, 10)
    ]
    assert positions == sorted(positions)
    assert "Largest losses of dpo_1 on near" in section


def test_write_report_without_saved_videos(workdir, tmp_path):
    (tmp_path / "evaluation").mkdir()
    for name in ("evaluation.json", "config.json", "evaluation/measurements.jsonl"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    text = write_report(tmp_path).read_text()
    assert "video" not in PageParser(text).tags
    assert "video not saved" in text


def test_write_report_without_evaluation(tmp_path):
    bind_config_to_workdir(configuration.load(), tmp_path)
    assert "No evaluation yet" in write_report(tmp_path).read_text()


def test_write_report_null_scores(workdir, tmp_path):
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    for entry in evaluation["sets"]["near"]["systems"].values():
        entry["overall"] = None
        entry["delta"] = {name: [None, None, None] for name in entry["delta"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "–" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "delta, words",
    [
        ((0.5, 0.4, 0.6), "raises the overall score by 0.500"),
        ((-0.5, -0.6, -0.4), "lowers the overall score by 0.500"),
        ((0.1, -0.1, 0.3), "no clear difference"),
        ((None, None, None), "has no score"),
    ],
)
def test_headline(delta, words):
    systems = {
        "original": {},
        "sft": {"delta": {"overall": delta}, "win_rate": 0.625},
        "oracle": {},
    }
    (sentence,) = headline({"sets": {"mine": {"prompts": 8, "systems": systems}}})
    assert sentence.startswith("On mine, sft ")
    assert words in sentence


def test_number_formats():
    assert number(None) == "–"
    assert number(float("nan")) == "–"
    assert number(1.5, 1) == "1.5"
    assert signed(-0.25, 2) == "−0.25"


def test_write_report_shows_units(workdir):
    text = write_report(workdir).read_text()
    assert text.count("What the rewrites keep of the prompts") == 2
    table = text[text.index('<table class="gains units">') :]
    row = table[table.index("<span>base</span>") :][:250]
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    units = evaluation["sets"]["near"]["systems"]["base"]["units"]
    counted = units["kept"] + units["missing"] + units["contradicted"]
    assert f"<td>{units['kept'] / counted:.1%}</td><td>{units['missing']}</td>" in row
    assert 'units-kept"><span>kept</span> <bdi class="unit">cat</bdi>' in text


def test_write_report_of_an_evaluation_without_units(workdir, tmp_path):
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    for entry in evaluation["sets"].values():
        for system in entry["systems"].values():
            del system["units"], system["reverted"]
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "What the rewrites keep" not in write_report(tmp_path).read_text()
