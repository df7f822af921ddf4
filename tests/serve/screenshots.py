"""Writes the pictures of the page in docs/guides, with a rewrite of the default booster.

python -m tests.serve.screenshots
"""

import contextlib
from pathlib import Path

from pav_jax.booster.booster import Booster
from pav_jax.environment import prepare_process
from pav_jax.serve.local import LocalBackend
from pav_jax.serve.options import ServeLimits
from tests.serve.backends import running
from tests.serve.browser import PHONE, chromium, refine

FOLDER = Path(__file__).parents[2] / "docs" / "guides"
DESKTOP = {"width": 1280, "height": 1000}
PROMPT = "two red kites over a beach at sunset, no people -ar 16:9"
SECONDS = 3600  # for a busy machine


def main() -> None:
    prepare_process()  # keeps compiled programs
    backend = LocalBackend(Booster.from_pretrained())
    limits = ServeLimits(timeout_s=SECONDS)
    with (
        contextlib.closing(backend),
        running(backend, limits=limits) as (address, *_),
        chromium() as browser,
    ):
        for name, viewport, scheme in (("page", DESKTOP, "light"), ("page_phone", PHONE, "dark")):
            with contextlib.closing(browser.new_context(viewport=viewport)) as context:
                page = context.new_page()
                page.set_default_timeout(1000 * SECONDS)
                page.emulate_media(color_scheme=scheme)
                page.goto(address)
                page.locator("#model option").first.wait_for(state="attached")
                refine(page, PROMPT)
                page.mouse.click(1, 1)  # the button loses the focus
                page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


if __name__ == "__main__":
    main()
