"""Chromium, and what tests do on the page of the server."""

import contextlib
import dataclasses
import shutil

from playwright.sync_api import sync_playwright

from tests.serve.backends import FakeBackend

PROGRAMS = ("chromium", "google-chrome", "chromium-browser", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
PROMPT = "two red kites over a beach, no people"
REWRITE = "Two crimson birds soar over a beach with a lone person, at sunset."
UNITS = {
    "kept": ["two", "red", "beach"],
    "contradicted": ["no people"],
    "missing": ["kites"],
    "added": ["birds"],
}
PHONE = {"width": 360, "height": 740}


class GuardedBackend(FakeBackend):
    """Answers `REWRITE`, with what a guard says of it, or with other fields of the refinement."""

    def __init__(self, **fields):
        super().__init__()
        self.fields = {"refined": REWRITE, "faith": 0.29} | UNITS | fields

    def refine(self, request):
        refinements = super().refine(request)
        return [dataclasses.replace(refinement, **self.fields) for refinement in refinements]


@contextlib.contextmanager
def chromium():
    with sync_playwright() as playwright:
        # no sandbox: root has none; no GPU: it takes seconds to find out
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def complaints(message):
    """What the page logs; failed requests are logged by Chromium itself."""
    if message.type == "error" and "Failed to load resource" not in message.text:
        yield message.text


def foreign_requests(request, address):
    if not request.url.startswith((f"{address}/", f"blob:{address}/", "data:")):
        yield request.url


def refine(page, prompt=PROMPT):
    page.get_by_label("Your prompt", exact=True).fill(prompt)
    with page.expect_response("**/refine") as response:
        page.get_by_role("button", name="Rewrite", exact=True).click()
    page.locator("#form[aria-busy=false]").wait_for()
    return response.value


def rewrite_of(page):
    return page.get_by_label("The rewrite").input_value()


def marked(page, place, kind):
    return page.locator(f"#{place} mark.{kind}").all_inner_texts()


def error_of(page):
    return page.get_by_role("alert").inner_text(timeout=10_000)


LOWEST_CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3).map((value) => value / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (channels(color)[3] ?? 1) ? color : background(element.parentElement);
  };
  const texts = [...document.querySelectorAll("main *, header *, footer *")].filter(
    (element) => element.checkVisibility() && !element.closest("#backdrop, option")
      && [...element.childNodes].some((node) => node.nodeType == 3 && node.textContent.trim()));
  return Math.min(...texts.map((element) => {
    const [low, high] = [getComputedStyle(element).color, background(element)]
      .map(luminance).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }));
}"""

LOAD_FROM_ELSEWHERE = """() => new Promise((refused) => {
  document.addEventListener("securitypolicyviolation", (event) => refused(event.blockedURI));
  const image = document.createElement("img");
  image.src = "https://example.com/x.png";
  document.body.append(image);
})"""
