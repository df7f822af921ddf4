"""What the mini VideoScore learns from: damaged videos with prompts, and everything that is known
of each frame.

Shapes: B rows, F frames shown.
"""

import numpy as np

from pav_jax.mini.render import path
from pav_jax.mini.training import clips
from pav_jax.mini.training.damage import COST, FADES, SAID, ask, damaged, fade_start, labels, truth
from pav_jax.mini.world import FRAMES, Scene, attributes
from pav_jax.rewards.idefics2_processor import Idefics2Processor
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.videoscore import FRAME, SLOT
from pav_jax.trust.corruptions import NUM_SEVERITIES, corrupt_caption

QUERY_TEXT = f"{SLOT}:"  # as short as can be: every token costs time
FRAMES_SHOWN, TOKENS = 5, 48
CLEAN, TWICE, GENERATED_SHARE, REBUILT_SHARE = 0.25, 0.3, 0.3, 0.2
# how often, of the damaged videos that have a second one to turn into, the damage is that turn
TURN = 0.6
# how often so many of the prompt's slots are wrong; 3: it is another scene's
WRONG = {0: 0.5, 1: 0.24, 2: 0.1, 3: 0.16}
WRONG_CAPTION = (
    0.15  # of the prompts that are right: how often some of the words are another prompt's
)
PLAIN_KINDS = tuple(kind for kind in COST if kind not in (*clips.TURN_KINDS, "cut", "tint"))
FIRST_KINDS = (
    *PLAIN_KINDS,
    "cut",
    "tint",
    "tint",
    "flicker",
    "jump",
    "freeze",
    "freeze",
)  # often: what takes longest
NAMED_KINDS = tuple(COST)
ORDER_KINDS = ("freeze", "jump")
TURNING = ("subject", "colour", "background")  # what a turn changes


class Examples:
    """Batches as pure functions of the step."""

    def __init__(self, processor: Idefics2Processor, batch: int):
        self.processor, self.batch = processor, batch
        self.sets = [clips.rendered(), clips.generated()]
        self.turn_scenes, self.turn_videos = clips.turns()
        self.turn_of = {i: row for row, (i, _, _) in enumerate(self.turn_scenes)}
        self.shown = frame_indices(FRAMES, FRAMES_SHOWN)

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        """
        frames uint8 [B, F, H, W, 3], ids and mask [B, T], labels [B, 5]: the judge's task. What it
        is told besides: asked [B, 12] the attributes the prompt asks for, right [B, 3] whether SAID
          are right, hurt [B, kinds] severity
        0..1; of each frame its scene's attributes [B, F, 12], where [B, F, 5] (`render.path`), and
        since the first frame passed [B, F] time in half seconds, moved [B, F, 5], changed [B, F, 3]
        how far TURNING are others.
        """
        rng = np.random.default_rng([86, i])
        rows = [self.one(rng) for _ in range(self.batch)]
        ids, mask = self.processor.texts([row.pop("text") for row in rows], TOKENS, "right")
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return stacked | {"ids": ids, "mask": mask}

    def one(self, rng: np.random.Generator) -> dict:
        made = rng.random()
        scenes, videos = self.sets[int(made < GENERATED_SHARE)]
        low, high = (
            (0, len(scenes))
            if made < GENERATED_SHARE
            else (
                (0, clips.REBUILT)
                if made < GENERATED_SHARE + REBUILT_SHARE
                else (clips.REBUILT, len(scenes))
            )
        )
        pick = int(rng.integers(low, high))
        scene = other_scene = scenes[pick]
        video, damages = np.array(videos[pick]), []
        clock, fade = (
            np.arange(FRAMES),
            np.zeros(FRAMES),
        )  # of each frame: its number in the sound video
        for kind in self.kinds(rng, pick if videos is self.sets[0][1] else None):
            severity, other, seed = (
                int(rng.integers(1, NUM_SEVERITIES)),
                None,
                int(rng.integers(2**31)),
            )
            if kind == "cut":
                number = int(rng.integers(low, high))
                other_scene, other = scenes[number], videos[number]
            elif kind in clips.TURN_KINDS:
                row = self.turn_of[pick]
                other_scene, other = self.turn_scenes[row][2], self.turn_videos[row]
            video = damaged(video, kind, severity, seed, other)
            if kind in ORDER_KINDS:
                numbers = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None]
                order = damaged(numbers, kind, severity, seed)[:, 0, 0, 0]
                clock, fade = clock[order], fade[order]
            elif other is not None:
                fade[fade_start(FRAMES) :] = FADES[severity - 1]
            damages.append((kind, severity))
        prompt, asked, right, true = self.text(scene, rng)
        return {
            "text": QUERY_TEXT.replace(SLOT, prompt) + FRAME * FRAMES_SHOWN,
            "frames": video[self.shown],
            "labels": labels(scene, true, damages),
            "asked": attributes([asked])[0],
            "right": np.array([right[s] for s in SAID], np.float32),
            "hurt": np.array(
                [dict(damages).get(kind, 0) / (NUM_SEVERITIES - 1) for kind in NAMED_KINDS],
                np.float32,
            ),
            **frame_by_frame(scene, other_scene, clock[self.shown], fade[self.shown]),
        }

    def kinds(self, rng: np.random.Generator, render: int | None) -> list[str]:
        """The damage of one video; `render`: its number among the renders, where it is one."""
        if rng.random() < CLEAN:
            return []
        turns = render in self.turn_of and rng.random() < TURN
        first = self.turn_scenes[self.turn_of[render]][1] if turns else str(rng.choice(FIRST_KINDS))
        second = (
            [str(rng.choice([k for k in PLAIN_KINDS if k != first]))]
            if rng.random() < TWICE
            else []
        )
        return [first, *second]

    def text(
        self, scene: Scene, rng: np.random.Generator
    ) -> tuple[str, Scene, dict[str, bool], float]:
        """(prompt, the scene it asks for, which of SAID are right, 0..1 how true it is)."""
        wrong = int(rng.choice(list(WRONG), p=list(WRONG.values())))
        slots = [str(s) for s in rng.permutation(SAID)[:wrong]] if wrong < 3 else list(SAID)
        if rng.random() < 0.1:
            slots.append("background")
        prompt, asked, right = ask(scene, slots, rng)
        true = truth(prompt, scene, right)
        if not wrong and rng.random() < WRONG_CAPTION:
            other, severity = ask(scene, SAID, rng)[0], int(rng.integers(1, NUM_SEVERITIES))
            prompt = corrupt_caption(prompt, other, "wrong caption", severity)
            true *= 1 - severity / (NUM_SEVERITIES - 1)
            right = dict.fromkeys(SAID, severity < 3)
        return prompt, asked, right, true


def frame_by_frame(scene: Scene, other: Scene, clock_F: np.ndarray, fade_F: np.ndarray) -> dict:
    """What is known of each frame, from its number in the sound video and how far it has faded to
    the other's."""
    fade_Fx1 = fade_F[:, None]
    named = np.where(fade_Fx1 > 0.5, attributes([other]), attributes([scene]))
    where_Fx5 = (1 - fade_Fx1) * path(scene)[clock_F] + fade_Fx1 * path(other)[clock_F]
    differs = np.array([getattr(scene, slot) != getattr(other, slot) for slot in TURNING])
    told = {
        "where": where_Fx5,
        "moved": where_Fx5 - where_Fx5[:1],
        "changed": fade_Fx1 * differs,
        "passed": (clock_F - clock_F[0]) / 4,
    }
    return {"attributes": named} | {name: value.astype(np.float32) for name, value in told.items()}
