"""How well the mini VideoScore and MPS judge: `python -m pav_jax.mini.training.judges` prints the figures;
status 1 on a miss.

On fresh scenes, and on damage that no training saw (`damage.HELD_OUT`):

- each dimension of VideoScore must rank the severities of its kinds, mean rank correlation 0.6 or
  more;
- MPS must prefer the less damaged of two frames' videos, and the prompt's own video to another
  prompt's, 80 % each.

Half of the videos have been through the generator's VAE. The correlation's sign is turned: 1 is a
score that falls with every grade of damage.
"""

import argparse
import sys
from collections.abc import Mapping

import numpy as np

from pav_jax.mini.render import render
from pav_jax.mini.training import clips
from pav_jax.mini.training.clip import rebuilder
from pav_jax.mini.training.damage import HELD_OUT, SAID, TURNS, ask, damaged, turned
from pav_jax.mini.training.mps import CONDITION
from pav_jax.mini.training.mps import FOLDER as MPS_FOLDER
from pav_jax.mini.training.videoscore import FOLDER, QUERY
from pav_jax.mini.training.videoscore_examples import FRAMES_SHOWN
from pav_jax.rewards.mps import MPS
from pav_jax.rewards.videoscore import NAMES, VideoScore
from pav_jax.trust.corruptions import CAPTION_CORRUPTIONS, NUM_SEVERITIES, corrupt_caption
from pav_jax.trust.measures import severity_correlations

FOLLOWS, PREFERS = 0.6, 0.8
TRAINED = {
    "VQ": ("noise", "blur", "darkness"),
    "TC": ("flicker", "jump", "tint"),
    "DD": ("freeze",),
    "TVA": ("wrong caption",),
    "FC": ("jump", "colour turn", "place turn"),
}
PICTURES = HELD_OUT["VQ"]  # MPS sees single frames


class Fresh:
    """`count` scenes that no training has drawn, their users' prompts, and each of them in any
    damage."""

    def __init__(self, count: int, seed: int = 91, rebuilt: bool = True):
        rng = np.random.default_rng(seed)
        self.scenes = clips.scenes(count, seed)
        self.videos = render(self.scenes)
        if rebuilt:
            self.videos[: count // 2] = rebuilder()(self.videos[: count // 2])
        self.prompts = [ask(scene, (), rng)[0] for scene in self.scenes]
        self.others = [ask(scene, SAID, rng)[0] for scene in self.scenes]

    def graded(self, kind: str) -> tuple[np.ndarray, list[str]]:
        """Videos [count * NUM_SEVERITIES, ...] and prompts, every severity of a video in a row."""
        rng = np.random.default_rng(92)
        other = (
            render([turned(s, kind, rng) for s in self.scenes])
            if kind in TURNS
            else [None] * len(self.scenes)
        )
        videos, prompts = [], []
        for i, video in enumerate(self.videos):
            for severity in range(NUM_SEVERITIES):
                seen = kind not in CAPTION_CORRUPTIONS
                videos.append(damaged(video, kind, severity, i, other[i]) if seen else video)
                prompts.append(
                    self.prompts[i]
                    if seen
                    else corrupt_caption(self.prompts[i], self.others[i], kind, severity)
                )
        return np.stack(videos), prompts


def videoscore() -> VideoScore:
    """The shipped one, asked and shown frames as it was trained."""
    return VideoScore.from_pretrained(FOLDER, query=QUERY, frames=FRAMES_SHOWN)


def mps() -> MPS:
    return MPS.from_pretrained(MPS_FOLDER, condition=CONDITION)


def follows(
    judge: VideoScore, fresh: Fresh, kinds: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    """ "dimension, kind" -> mean over videos of the rank correlation of severity and score, sign
    turned."""
    scores, found = {}, {}
    for dimension, listed in kinds.items():
        for kind in listed:
            if kind not in scores:
                scores[kind] = judge.score(*fresh.graded(kind))
            table = scores[kind][dimension].reshape(-1, NUM_SEVERITIES)
            found[f"{dimension}, {kind}"] = -float(
                np.mean(severity_correlations(table, range(NUM_SEVERITIES)))
            )
    return found


def prefers(judge: MPS, fresh: Fresh) -> dict[str, float]:
    """How often MPS prefers the sound video to the damaged one (severities 2 to 4), and the right
    video to another."""
    found = {}
    for kind in PICTURES:
        table = judge.score(*fresh.graded(kind))["MPS"].reshape(-1, NUM_SEVERITIES)
        found[kind] = float(np.mean(table[:, :1] > table[:, 2:]))
    own, wrong = (
        judge.score(videos, fresh.prompts)["MPS"]
        for videos in (fresh.videos, np.roll(fresh.videos, 1, 0))
    )
    return found | {"another prompt's video": float(np.mean(own > wrong))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=64, help="fresh scenes (default 64)")
    args = parser.parse_args()
    if args.count < 2:
        parser.error(
            "argument --count: must be at least 2, for half of the videos are reconstructions"
        )
    fresh, score = Fresh(args.count), videoscore()
    rows = [
        (f"VideoScore, trained on: {k}", v, None) for k, v in follows(score, fresh, TRAINED).items()
    ]
    held = follows(score, fresh, HELD_OUT)
    rows += [(f"VideoScore, held out: {k}", v, None) for k, v in held.items()]
    for name in NAMES:
        mean = np.mean([v for k, v in held.items() if k.startswith(f"{name}, ")])
        rows.append((f"VideoScore, {name} on the kinds held out", float(mean), FOLLOWS))
    rows += [(f"MPS prefers to {k}", v, PREFERS) for k, v in prefers(mps(), fresh).items()]
    for text, value, wanted in rows:
        print(
            f"{'     ' if wanted is None else 'pass ' if value >= wanted else 'MISS '} {text}"
            f" {value:.3f}"
        )
    sys.exit(0 if all(wanted is None or value >= wanted for _, value, wanted in rows) else 1)


if __name__ == "__main__":
    main()
