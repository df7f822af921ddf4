"""The report and the votes page in Chromium."""

import json

import numpy as np
import pytest

from pav_jax import config as configuration
from pav_jax.main import main
from pav_jax.report import write_report
from pav_jax.report.votes import write_votes
from pav_jax.report.votes_page import write_votes_page
from pav_jax.video.files import mp4_bytes
from pav_jax.workdir_config import bind_config_to_workdir
from tests.report.compared_videos import PROMPTS, make_votes, read_key, write_measurements
from tests.report.hard_cases import HARD_PROMPTS, SYSTEMS, write_hard_cases
from tests.serve.browser import CHROMIUM, LOWEST_CONTRAST, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
PHONE = {"width": 390, "height": 844}
LAYOUTS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
PAGE_WIDTH = "() => document.scrollingElement.scrollWidth"
CUT_OFF = """() => [...document.querySelectorAll("svg")].flatMap((plot) => {
  const { left, right, top, bottom } = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < left - 1 || box.right > right + 1
      || box.top < top - 1 || box.bottom > bottom + 1;
  }).map((text) => text.textContent);
})"""
# the page's policy forbids what Playwright's own waiting needs
LOADED = """async (video) => {
  for (let i = 0; video.readyState < 2; i++) {
    if (i > 1000) throw new Error("not loaded");
    await new Promise((done) => setTimeout(done, 10));
  }
}"""
RED = """(video) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(video, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data[0];
}"""
DIRECTIONS = "(nodes) => nodes.map((node) => getComputedStyle(node).direction)"


def make_video(system, number):
    """Noise in the system's own brightness."""
    random = np.random.default_rng(number)
    low, high = (0, 100) if system == "original" else (150, 255)
    return mp4_bytes(random.integers(low, high, (4, 32, 32, 3), np.uint8), fps=8)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def open_page(browser, path, width, scheme="light"):
    page = browser.new_page(viewport=PHONE | {"width": width}, color_scheme=scheme)
    page.goto(f"file://{path}")
    return page


def test_report_layout_of_hard_cases(browser, tmp_path):
    write_hard_cases(tmp_path, (*SYSTEMS[:2], *SYSTEMS[2:-2:4], *SYSTEMS[-2:]))
    write_votes_page(tmp_path, ["original", "base", SYSTEMS[-2]])
    votes = tmp_path / "votes.jsonl"
    votes.write_text("\n".join(make_votes(tmp_path, [SYSTEMS[-2]] * 3)))
    write_votes(tmp_path, [votes])
    path = write_report(tmp_path)
    for width, scheme in LAYOUTS:
        page = open_page(browser, path, width, scheme)
        assert page.evaluate(PAGE_WIDTH) <= width
        assert page.evaluate(LOWEST_CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3
        assert page.evaluate(CUT_OFF) == []
        directions = page.locator(".prompt").evaluate_all(DIRECTIONS)
        assert directions[: len(HARD_PROMPTS)] == ["rtl", "rtl", "ltr", "ltr", "ltr", "ltr"]
        page.close()


def test_votes_page_layout(browser, tmp_path):
    write_measurements(tmp_path, prompts=(*HARD_PROMPTS[:4], "a cat"), video=make_video)
    path = write_votes_page(tmp_path)
    for width, scheme in LAYOUTS:
        page = open_page(browser, path, width, scheme)
        for _ in range(5):
            page.locator("#left").evaluate(LOADED)
            assert page.evaluate(PAGE_WIDTH) <= width
            assert page.evaluate(LOWEST_CONTRAST) >= 4.5
            bottom = page.locator(".choices").evaluate(
                "(node) => node.getBoundingClientRect().bottom"
            )
            assert bottom <= PHONE["height"]  # all that a vote needs, without scrolling
            page.get_by_role("button", name="1 is better").click()
        assert page.get_by_text("Thank you").is_visible()
        page.get_by_role("button", name="New voter").wait_for()
        page.context.close()


def test_votes_by_keys(browser, tmp_path, capsys):
    bind_config_to_workdir(configuration.load(), tmp_path)
    write_measurements(tmp_path, video=make_video)
    page = open_page(browser, write_votes_page(tmp_path), 1280)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    _, key = read_key(tmp_path)

    def side_of(system):
        """Which side the system's video is on: the brighter one is the booster's."""
        videos = [page.locator(f"#{side}") for side in ("left", "right")]
        for video in videos:
            video.evaluate(LOADED)
        left, right = (video.evaluate(RED) for video in videos)
        return "left" if (left > right) == (system == "my_booster") else "right"

    keys = {"left": "ArrowLeft", "right": "ArrowRight"}
    page.keyboard.press(keys[side_of("original")])
    page.keyboard.press("u")  # not this
    assert page.locator("#count").inner_text() == "0 of 5"
    for _ in range(3):
        page.keyboard.press(keys[side_of("my_booster")])
    page.keyboard.press(" ")
    page.reload()
    assert page.locator("#count").inner_text() == "4 of 5"
    page.keyboard.press("1" if side_of("my_booster") == "left" else "2")
    assert page.get_by_text("Thank you").is_visible()
    page.keyboard.press("1")  # there is nothing to vote on
    with page.expect_download() as download:
        page.get_by_role("button", name="Download votes").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    votes = [json.loads(line) for line in file.read_text().splitlines()]
    assert {vote["comparison"] for vote in votes} == set(key["comparisons"])
    assert len({vote["voter"] for vote in votes}) == 1 and len(votes) == len(PROMPTS)
    assert errors == []

    assert main(["report", f"--workdir={tmp_path}", f"--votes={file}"]) == 0
    assert "5 votes of 1 voter;" in " ".join(capsys.readouterr().out.split())
    (row,) = json.loads((tmp_path / "votes.json").read_text())["pairs"]
    assert row["systems"] == ["my_booster", "original"]
    assert (row["wins"], row["ties"], row["losses"]) == (4, 1, 0)
    assert "Human votes" in (tmp_path / "report" / "index.html").read_text()
