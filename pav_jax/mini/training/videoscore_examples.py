"""Training examples of the mini VideoScore and VideoReward: corrupted videos with prompts, and
labels for the video and for each frame.

Shapes: B rows, F frames shown.
"""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from pav_jax.mini.render import path
from pav_jax.mini.training import training_videos
from pav_jax.mini.training.corruption_labels import (
    FADES,
    LOST_SHARE,
    PROMPT_SLOTS,
    corrupt,
    corrupted_labels,
    draw_prompt,
    fade_start,
    prompt_accuracy,
)
from pav_jax.mini.world import FRAMES, Scene, attributes
from pav_jax.rewards.idefics2_processor import Idefics2Processor
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.videoscore import FRAME, SLOT
from pav_jax.trust.corruptions import NUM_SEVERITIES, corrupt_caption

QUERY_TEXT = f"{SLOT}:"  # as short as possible, because every token costs time
FRAMES_SHOWN = 5
TOKENS = 48
CLEAN_SHARE = 0.25
SECOND_CORRUPTION_SHARE = 0.3
RECONSTRUCTED_SHARE = 0.2
CHANGE_SHARE = 0.6  # of the corrupted videos that have a changed version
# Number of wrong slots of the prompt -> probability. 3: the prompt of another scene.
NUM_WRONG_SLOTS = {0: 0.5, 1: 0.24, 2: 0.1, 3: 0.16}
WRONG_PLACE_SHARE = 0.1
WRONG_CAPTION_SHARE = 0.15  # of the right prompts: some words are those of another prompt
PLAIN_KINDS = tuple(
    kind for kind in LOST_SHARE if kind not in (*training_videos.CHANGE_KINDS, "cut", "tint")
)
# The kinds that take longest to learn are listed more than once.
FIRST_KINDS = (*PLAIN_KINDS, "cut", "tint", "tint", "flicker", "jump", "freeze", "freeze")
CORRUPTION_KINDS = tuple(LOST_SHARE)
ORDER_KINDS = ("freeze", "jump")  # they reorder frames
CHANGING_SLOTS = ("subject", "colour", "background")  # what a change alters


@dataclasses.dataclass
class _CorruptedVideo:
    """A video with its corruptions, and what is known of each frame.

    Attributes:
      video: uint8 [FRAMES, H, W, 3].
      scene: of the clean video.
      other_scene: the scene that the video fades to; `scene` if it does not fade.
      clock: of each frame, its index in the clean video.
      fade: of each frame, the share of the other scene's video, 0..1.
      corruptions: (kind, severity) of each.
    """

    video: np.ndarray
    scene: Scene
    other_scene: Scene
    clock: np.ndarray
    fade: np.ndarray
    corruptions: list[tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A prompt for a video.

    Attributes:
      text: of the prompt.
      described: the scene that it describes.
      is_right: which of PROMPT_SLOTS are right.
      accuracy: how much of it is true of the video, 0..1.
    """

    text: str
    described: Scene
    is_right: dict[str, bool]
    accuracy: float


class Examples(abc.ABC):
    """Batches as a function of the step number, for any judge.

    Attributes:
      seed: of the batches.
      num_generated, generated_share: how many generated videos there are, and how often one of
        them is drawn.
      shown: frames that the judge reads.
    """

    seed = 86
    num_generated = training_videos.NUM_GENERATED
    generated_share = 0.3
    shown = frame_indices(FRAMES, FRAMES_SHOWN)

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.rendered = training_videos.rendered_videos()
        self.generated = training_videos.generated_videos(self.num_generated)
        self.changed_scenes, self.changed_videos = training_videos.changed_videos()
        self.changed_row = {index: row for row, (index, _, _) in enumerate(self.changed_scenes)}

    @abc.abstractmethod
    def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the texts about the videos, and their mask, each [B, T]."""

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        """Makes the batch of step `i`.

        Returns:
          The model's inputs and labels: frames uint8 [B, F, H, W, 3], ids and mask [B, T], labels
          [B, 5]. Auxiliary labels of a video: asked [B, 12], the attributes that the prompt asks
          for; right [B, 3], which of PROMPT_SLOTS are right; hurt [B, kinds], severities in 0..1.
          Of each
          frame: attributes [B, F, 12] of its scene; where [B, F, 5] (`render.path`); and since the
          first frame passed [B, F], time in half seconds; moved [B, F, 5]; changed [B, F, 3], how
          far CHANGING_SLOTS have changed.
        """
        rng = np.random.default_rng([self.seed, i])
        rows = [self.draw_row(rng) for _ in range(self.batch_size)]
        ids, mask = self.tokens([row.pop("prompt") for row in rows])
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return stacked | {"ids": ids, "mask": mask}

    def draw_row(self, rng: np.random.Generator) -> dict:
        """Draws a video, its corruptions and its prompt."""
        example = self._draw_video(rng)
        prompt = _draw_prompt(example.scene, rng)
        severities = dict(example.corruptions)
        hurt = [severities.get(kind, 0) / (NUM_SEVERITIES - 1) for kind in CORRUPTION_KINDS]
        return {
            "prompt": prompt.text,
            "frames": example.video[self.shown],
            "labels": corrupted_labels(example.scene, prompt.accuracy, example.corruptions),
            "asked": attributes([prompt.described])[0],
            "right": np.array([prompt.is_right[slot] for slot in PROMPT_SLOTS], np.float32),
            "hurt": np.array(hurt, np.float32),
            **frame_labels(
                example.scene,
                example.other_scene,
                example.clock[self.shown],
                example.fade[self.shown],
            ),
        }

    def _draw_video(self, rng: np.random.Generator) -> _CorruptedVideo:
        draw = rng.random()
        is_generated = draw < self.generated_share
        scenes, videos = self.generated if is_generated else self.rendered
        if is_generated:
            low = 0
            high = len(scenes)
        elif draw < self.generated_share + RECONSTRUCTED_SHARE:
            low = 0
            high = training_videos.NUM_RECONSTRUCTED
        else:
            low = training_videos.NUM_RECONSTRUCTED
            high = len(scenes)
        pick = int(rng.integers(low, high))
        example = _CorruptedVideo(
            video=np.array(videos[pick]),
            scene=scenes[pick],
            other_scene=scenes[pick],
            clock=np.arange(FRAMES),
            fade=np.zeros(FRAMES),
            corruptions=[],
        )
        for kind in self._draw_kinds(rng, None if is_generated else pick):
            severity = int(rng.integers(1, NUM_SEVERITIES))
            seed = int(rng.integers(2**31))
            other = None
            if kind == "cut":
                index = int(rng.integers(low, high))
                example.other_scene = scenes[index]
                other = videos[index]
            elif kind in training_videos.CHANGE_KINDS:
                row = self.changed_row[pick]
                example.other_scene = self.changed_scenes[row][2]
                other = self.changed_videos[row]
            _apply_corruption(example, kind, severity, seed, other)
        return example

    def _draw_kinds(self, rng: np.random.Generator, render: int | None) -> list[str]:
        """The corruptions of one video.

        Args:
          render: index of the video among the renders; None: it is generated.
        """
        if rng.random() < CLEAN_SHARE:
            return []
        row = None if render is None else self.changed_row.get(render)
        if row is not None and rng.random() < CHANGE_SHARE:
            first = self.changed_scenes[row][1]
        else:
            first = str(rng.choice(FIRST_KINDS))
        if rng.random() < SECOND_CORRUPTION_SHARE:
            return [first, str(rng.choice([kind for kind in PLAIN_KINDS if kind != first]))]
        return [first]


class VideoScoreExamples(Examples):
    """Batches with VideoScore's tokens."""

    def __init__(self, processor: Idefics2Processor, batch_size: int):
        super().__init__(batch_size)
        self.processor = processor

    def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the query with each prompt and of the frames, padded to TOKENS."""
        texts = [QUERY_TEXT.replace(SLOT, prompt) + FRAME * FRAMES_SHOWN for prompt in prompts]
        return self.processor.texts(texts, TOKENS, "right")


def _apply_corruption(
    example: _CorruptedVideo, kind: str, severity: int, seed: int, other: np.ndarray | None
) -> None:
    example.video = corrupt(example.video, kind, severity, seed, other)
    if kind in ORDER_KINDS:
        indices = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None]
        order = corrupt(indices, kind, severity, seed)[:, 0, 0, 0]
        example.clock = example.clock[order]
        example.fade = example.fade[order]
    elif other is not None:
        example.fade[fade_start(FRAMES) :] = FADES[severity - 1]
    example.corruptions.append((kind, severity))


def _draw_prompt(scene: Scene, rng: np.random.Generator) -> _Prompt:
    """Draws a prompt that is wrong in some of its slots."""
    num_wrong = int(rng.choice(list(NUM_WRONG_SLOTS), p=list(NUM_WRONG_SLOTS.values())))
    slots: list[str] = list(PROMPT_SLOTS)
    if num_wrong < len(PROMPT_SLOTS):
        slots = [str(slot) for slot in rng.permutation(PROMPT_SLOTS)[:num_wrong]]
    if rng.random() < WRONG_PLACE_SHARE:
        slots.append("background")
    text, described, is_right = draw_prompt(scene, slots, rng)
    accuracy = prompt_accuracy(text, scene, is_right)
    if num_wrong == 0 and rng.random() < WRONG_CAPTION_SHARE:
        other = draw_prompt(scene, PROMPT_SLOTS, rng)[0]
        severity = int(rng.integers(1, NUM_SEVERITIES))
        text = corrupt_caption(text, other, "wrong caption", severity)
        accuracy *= 1 - severity / (NUM_SEVERITIES - 1)
        is_right = {slot: severity < 3 for slot in PROMPT_SLOTS}
    return _Prompt(text, described, is_right, accuracy)


def frame_labels(
    scene: Scene, other: Scene, clock_F: np.ndarray, fade_F: np.ndarray
) -> dict[str, np.ndarray]:
    """The labels of each frame (see `Examples`).

    Args:
      scene: of the clean video.
      other: the scene that the video fades to.
      clock_F: indices of the frames in the clean video.
      fade_F: shares of the other scene's video, 0..1.
    """
    fade_Fx1 = fade_F[:, None]
    frame_attributes = np.where(fade_Fx1 > 0.5, attributes([other]), attributes([scene]))
    where_Fx5 = (1 - fade_Fx1) * path(scene)[clock_F] + fade_Fx1 * path(other)[clock_F]
    differs = np.array([getattr(scene, slot) != getattr(other, slot) for slot in CHANGING_SLOTS])
    labels = {
        "where": where_Fx5,
        "moved": where_Fx5 - where_Fx5[:1],
        "changed": fade_Fx1 * differs,
        "passed": (clock_F - clock_F[0]) / 4,
    }
    return {"attributes": frame_attributes} | {k: v.astype(np.float32) for k, v in labels.items()}
