"""Writes docs/guides/votes.png: the votes page, with videos of the embedded generator.

python -m tests.report.screenshots
"""

import tempfile
from pathlib import Path

from pav_jax.booster.booster import Booster
from pav_jax.environment import prepare_process
from pav_jax.records import Measurement
from pav_jax.report.votes_page import write_votes_page
from pav_jax.storage.records import write_jsonl
from pav_jax.video.files import write_mp4
from pav_jax.video.loading import load_generator
from tests.serve.browser import chromium

FILE = Path(__file__).parents[2] / "docs" / "guides" / "votes.png"
DESKTOP = {"width": 900, "height": 740}
PROMPT = "a red star bounces"


def main() -> None:
    prepare_process()  # keeps compiled programs
    generator = load_generator("mini:generator")
    ((rewrite,),) = Booster.from_pretrained("mini:booster").refine([PROMPT], seed=0)
    texts = {"original": PROMPT, "booster": rewrite.refined}
    videos = generator.generate(list(texts.values()), seed=[0, 0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measurements = []
        for (system, text), video in zip(texts.items(), videos, strict=True):
            path = f"videos/{system}.mp4"
            write_mp4(folder / path, video, generator.fps)
            measurements.append(Measurement("mine", system, PROMPT, 0, text, {}, 0.0, path))
        write_jsonl(folder / "evaluation" / "measurements.jsonl", measurements)
        with chromium() as browser:
            page = browser.new_page(viewport=DESKTOP, color_scheme="light")
            page.goto(f"file://{write_votes_page(folder)}")
            page.wait_for_timeout(2000)  # until the videos play
            page.screenshot(path=FILE)


if __name__ == "__main__":
    main()
