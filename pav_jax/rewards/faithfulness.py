"""FAITH: how much of the user's prompt a rewrite keeps, computed from the two texts alone.

Both texts are read by rules, so that every installation gives the same score. The prompt is split
into units: its subjects, attributes, counts, motions, places, styles, camera words and quoted
texts, by longest match against a concept lexicon, and every content word that is not in the
lexicon. A unit is kept by the same word in any inflection, by a synonym (crimson for red), by a
narrower word (corgi for dog), or by a close derivation (snowy for snow). A broader word (dog for
corgi) counts half. Words such as "person" or "view" weigh less, because almost any text has them.

The sentences of both texts are compared as well: which noun an attribute or a number belongs to,
what is denied, who does what to whom, what is where. The score is the weighted share of units,
halved by a contradiction. A text in another language has no score (NaN).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pav_jax.rewards.faith.judge import Judgement
from pav_jax.rewards.faith.judge import judge as judge_with
from pav_jax.rewards.faith.lexicon import LEXICON, Lexicon, load_lexicon
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import FaithfulnessOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.folders import local_copy

__all__ = ["LEXICON", "Faithfulness", "Judgement", "Lexicon", "faithfulness", "judge"]
__all__ += ["load_lexicon"]


def judge(prompt: str, refined: str, lexicon: Lexicon | None = None) -> Judgement:
    """What a rewrite keeps, misses, contradicts and adds, unit by unit, with its score.

    Args:
      prompt: what the user typed.
      refined: the rewrite.
      lexicon: concepts of words; None: that of the package.
    """
    return judge_with(prompt, refined, lexicon or load_lexicon())


def faithfulness(prompt: str, refined: str, lexicon: Lexicon | None = None) -> float:
    """The faithfulness of a rewrite, in [0, 1]; NaN for a text that cannot be read.

    A prompt without content words, or in a language other than English, cannot be read.
    """
    return judge(prompt, refined, lexicon).score


class Faithfulness(PretrainedReward):
    """The reward FAITH. Without rewrites there is no score."""

    names = ("FAITH",)
    options = FaithfulnessOptions

    def __init__(self, lexicon: Lexicon | None = None):
        self.lexicon = lexicon or load_lexicon()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the lexicon in cache keys."""
        return fingerprint("faithfulness", lexicon=self.lexicon.path)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> "Faithfulness":
        """Reads a lexicon.

        Args:
          path: a lexicon file, or a folder with lexicon.json; None: that of the package.

        Raises:
          BadInput: the file is missing, not JSON, or lacks a field.
        """
        if path is None:
            return cls()
        file = local_copy(path)
        return cls(load_lexicon(file / "lexicon.json" if file.is_dir() else file))

    def score(
        self, videos: Videos | None, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score the rewrites by their prompts; returns FAITH [B], nothing without rewrites."""
        if refined is None:
            return {}
        pairs = zip(prompts, refined, strict=True)
        scores = [faithfulness(prompt, rewrite, self.lexicon) for prompt, rewrite in pairs]
        return {"FAITH": np.array(scores, np.float32)}
