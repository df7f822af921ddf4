"""Writes the pictures of the page in docs/guides: `python -m tests.serve.screenshots`."""

import contextlib
from pathlib import Path

from tests.serve.backends import running
from tests.serve.browser import PHONE, GuardedBackend, chromium, refine

FOLDER = Path(__file__).parents[2] / "docs" / "guides"
DESKTOP = {"width": 900, "height": 1000}


def main() -> None:
    backend = GuardedBackend()
    backend.models = ["cogvideox", "wan", "hunyuan"]
    with running(backend) as (address, *_), chromium() as browser:
        for name, viewport, scheme in (("page", DESKTOP, "light"), ("page_phone", PHONE, "dark")):
            with contextlib.closing(browser.new_context(viewport=viewport)) as context:
                page = context.new_page()
                page.emulate_media(color_scheme=scheme)
                page.goto(address)
                page.locator("#model option").first.wait_for(state="attached")
                refine(page)
                page.mouse.click(1, 1)  # the button loses the focus
                page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


if __name__ == "__main__":
    main()
