import html.parser
import json

import pytest
from ml_collections import ConfigDict

from pav_jax import config as configuration
from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.report import write_report
from pav_jax.report.page import headline, number, signed
from tests.evaluate.fakes import Generator, Suite

EVIL = '<script>alert("x")</script> & "quoted" \' {{ 7 * 7 }}'


class Page(html.parser.HTMLParser):
    """Counts tags, and gathers what would leave the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href", "poster")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    config = configuration.load(None, ["--config.rewriter.path=/home/somebody/models/llama"])
    configuration.claim(config, folder)
    settings = ConfigDict(
        dict(
            generator=dict(batch_size=4),
            evaluate=dict(seeds=(0, 1), suffix_prompts=2, resamples=100, save_videos=True),
        )
    )
    prompts = tuple(f"a cat runs {i}" for i in range(11)) + (EVIL,)
    sets = {"near": PromptSet(prompts, (None,) * 12), EVIL: PromptSet((EVIL,), (EVIL,))}
    systems = {
        "base": lambda p, seed: [f"{x} now" for x in p],
        "dpo_1": lambda p, seed: [f"{x} {EVIL}" for x in p],
    }
    evaluate(settings, systems, sets, Generator(), Suite(), folder, training_prompts=["a dog"])
    return folder


def test_the_page_holds_everything_and_asks_no_network(workdir):
    text = write_report(workdir).read_text()
    page = Page(text)
    assert all(a.startswith(("#", "data:")) for a in page.addresses)
    assert "http://www.w3.org" in text  # the name of a format, no address that is fetched
    shown = text[: text.index("<pre>")]  # the configuration's text may name an endpoint
    assert shown.count("http") == shown.count("http://www.w3.org") + shown.count("http-equiv")
    assert page.tags.count("video") == sum(
        a.startswith("data:video/mp4;base64,") for a in page.addresses
    )
    # 8 examples and 4 worst of the first set, one of each of the second; original, base and the
    # booster each
    assert page.tags.count("video") == (8 + 4 + 1 + 1) * 3


def test_what_people_and_models_write_is_escaped(workdir):
    text = write_report(workdir).read_text()
    assert Page(text).tags.count("script") == 1  # our own
    assert "&lt;script&gt;alert" in text and "{{ 7 * 7 }}" in text


def test_no_place_on_this_machine_is_told(workdir):
    text = write_report(workdir).read_text()
    assert "/home/somebody" not in text and "…/models/llama" in text
    assert str(workdir) not in text


def test_the_page_is_the_same_every_time(workdir):
    assert write_report(workdir).read_bytes() == write_report(workdir).read_bytes()


def test_examples_follow_the_rule_and_the_worst_come_last(workdir):
    text = write_report(workdir).read_text()
    section = text[text.index('<section id="videos-1">') :]
    shown = [
        section.index(f'<p class="prompt">a cat runs {i}\n') for i in (0, 1, 3, 4, 6, 7, 9, 10)
    ]
    assert shown == sorted(shown)
    assert "Where dpo_1 does worst on near" in section


def test_videos_that_were_not_kept_leave_a_place(workdir, tmp_path):
    for name in ("evaluation.json", "config.json"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    (tmp_path / "evaluation").mkdir()
    source = workdir / "evaluation" / "measurements.jsonl"
    (tmp_path / "evaluation" / "measurements.jsonl").write_bytes(source.read_bytes())
    page = Page(text := write_report(tmp_path).read_text())
    assert "video" not in page.tags and "no video kept" in text


def test_a_page_without_evaluation_says_so(tmp_path):
    configuration.claim(configuration.load(), tmp_path)
    assert "Nothing is evaluated yet" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "delta, words",
    [
        ((0.5, 0.4, 0.6), "raises the overall score by 0.500"),
        ((-0.5, -0.6, -0.4), "lowers the overall score by 0.500"),
        ((0.1, -0.1, 0.3), "no clear difference"),
        ((None, None, None), "has no score"),
    ],
)
def test_the_headline_says_no_more_than_was_measured(delta, words):
    systems = {
        "original": {},
        "sft": {"delta": {"overall": delta}, "win_rate": 0.625},
        "oracle": {},
    }
    (sentence,) = headline({"sets": {"mine": {"prompts": 8, "systems": systems}}})
    assert sentence.startswith("On mine, sft ") and words in sentence


def test_missing_figures_are_dashes():
    assert (number(None), number(float("nan")), signed(-0.25, 2), number(1.5, 1)) == (
        "–",
        "–",
        "−0.25",
        "1.5",
    )


def test_the_page_survives_json_null(workdir, tmp_path):
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    for entry in evaluation["sets"]["near"]["systems"].values():
        entry["overall"] = None
        entry["delta"] = {name: [None, None, None] for name in entry["delta"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "–" in write_report(tmp_path).read_text()
