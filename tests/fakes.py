"""A generator, reward suites and a language model without models. They record requests."""

import hashlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.rewards.reward import Reward
from pav_jax.rewards.suite import RewardSuite
from pav_jax.video.generator import Generator

PROMPTS = [
    "a red ball bouncing",
    "a blue fish swims",
    "two dogs run",
    "a girl is playing guitar",
    "rain on a window",
]


def unit_number(*parts) -> float:
    """A number in [0, 1) that follows from the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class FakeGenerator(Generator):
    """Uniform videos whose brightness follows from prompt and seed.

    Args:
      dtype: of the frames; a float type allows `broken`.
      broken: prompts whose videos are NaN.
      interrupt_after: number of calls before one is interrupted.

    Attributes:
      made: the distinct (prompt, seed) of each call.
      batch_sizes: of all calls.
    """

    fingerprint = "fake generator"
    fps = 8

    def __init__(self, dtype=np.uint8, broken=(), interrupt_after=None):
        self.dtype = dtype
        self.broken = set(broken)
        self.interrupt_after = interrupt_after
        self.made: list[tuple[str, int]] = []
        self.batch_sizes: list[int] = []

    def generate(self, prompts, *, seed):
        if self.interrupt_after is not None and len(self.batch_sizes) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.batch_sizes.append(len(prompts))
        self.made += list(dict.fromkeys(zip(prompts, seed, strict=True)))
        values = [int(256 * unit_number("video", p, s)) for p, s in zip(prompts, seed, strict=True)]
        videos = np.ones((len(values), 2, 16, 16, 3), self.dtype)
        videos *= np.asarray(values, self.dtype).reshape(-1, 1, 1, 1, 1)
        for i, prompt in enumerate(prompts):
            if prompt in self.broken:
                videos[i] = np.nan
        return videos


class FakeReward(Reward):
    """AES is the brightness, or `value(prompt, rewrite)`; TVA follows from the texts; FAITH is 1.

    With `value` TVA is 0. A rewrite in `nan` has no TVA.
    """

    names = ("AES", "TVA", "FAITH")

    def __init__(self, nan=(), value: Callable[[str, str], float] | None = None):
        self.nan = set(nan)
        self.value = value

    def score(self, videos, prompts, refined=None):
        pairs = list(zip(prompts, refined, strict=True))
        aes = videos.reshape(len(videos), -1).mean(axis=1) / 255
        scale = 1
        if self.value is not None:
            aes = np.asarray([self.value(p, r) for p, r in pairs])
            scale = 0
        tva = [np.nan if r in self.nan else scale * unit_number("tva", p, r) for p, r in pairs]
        return {
            "AES": aes.astype(np.float32),
            "TVA": np.asarray(tva, np.float32),
            "FAITH": np.ones(len(videos), np.float32),
        }


class FakeSuite(RewardSuite):
    """A suite of `FakeReward`, AES and TVA weighted equally. Arguments as for `FakeReward`."""

    def __init__(self, nan=(), value=None):
        super().__init__([FakeReward(nan, value)], {"AES": 1.0, "TVA": 1.0})
        self.batch_sizes: list[int] = []

    def score(self, videos, prompts, refined=None, fps=None):
        self.batch_sizes.append(len(videos))
        return super().score(videos, prompts, refined, fps)


class WordCountReward(Reward):
    """AES is the rewrite's number of words, TVA the brightness, FAITH the share of shared words.

    Videos scored against the prompt `unscored` have no AES.
    """

    names = ("AES", "TVA", "FAITH")
    fingerprint = "fake"

    def __init__(self, unscored: str | None = None):
        self.unscored = unscored

    def score(self, videos, prompts, refined=None):
        pairs = list(zip(prompts, refined, strict=True))
        faith = [len(set(p.split()) & set(r.split())) / len(set(p.split())) for p, r in pairs]
        aes = [np.nan if p == self.unscored else len(r.split()) for p, r in pairs]
        return {
            "AES": np.asarray(aes, np.float32),
            "TVA": videos[:, 0, 0, 0, 0].astype(np.float32) / 255,
            "FAITH": np.asarray(faith, np.float32),
        }


class WordCountSuite(RewardSuite):
    """A suite of `WordCountReward`, AES and TVA weighted equally."""

    def __init__(self, unscored: str | None = None):
        super().__init__([WordCountReward(unscored)], {"AES": 1.0, "TVA": 1.0})
        self.batch_sizes: list[int] = []

    def score(self, videos, prompts, refined=None, fps=None):
        self.batch_sizes.append(len(videos))
        return super().score(videos, prompts, refined, fps)


class FakeLanguageModel:
    """The part of a `LanguageModel` that stages use.

    Args:
      reply: (prompt, index of the sequence, seed) -> text.

    Attributes:
      requests: (prompt, seed) of all calls.
    """

    def __init__(
        self,
        reply=lambda prompt, k, seed: (
            f"{prompt}, take {k}, {int(1e6 * unit_number(prompt, k, seed))}"
        ),
    ):
        self.reply = reply
        self.requests: list[tuple[str, int]] = []

    def generate(self, prompts, num_return_sequences=1, seed=0, **sampling):
        assert all(isinstance(chat, list) and chat[-1]["role"] == "user" for chat in prompts)
        requests = [(chat[-1]["content"], s) for chat, s in zip(prompts, seed, strict=True)]
        self.requests += requests
        return [[self.reply(p, k, s) for k in range(num_return_sequences)] for p, s in requests]


def make_config(**changes) -> ConfigDict:
    """The defaults, sized for these tests; `evolve__rounds=1` sets `evolve.rounds`."""
    config = defaults.get_config()
    config.seed = 7
    config.generator.batch_size = 4
    config.evolve.rounds = 2
    config.evolve.history_size = 2
    config.evolve.proposal_batch_size = 2
    config.prefer.num_return_sequences = 3
    config.prefer.margin = 0.1
    config.prefer.sampling_batch_size = 2
    for key, value in changes.items():
        section, _, field = key.partition("__")
        config[section][field] = value
    return config
