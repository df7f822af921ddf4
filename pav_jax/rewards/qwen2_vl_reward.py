"""What the rewards share whose scores a Qwen2-VL gives."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from pav_jax.rewards.qwen2_vl_judge import SLOT, Qwen2VLJudge
from pav_jax.rewards.reward import PretrainedReward


class Qwen2VLReward(PretrainedReward):
    """A reward whose scores come from a judge and a text about the video.

    Attributes:
      judge: the model.
      template: the text, with SLOT in place of the prompt.
    """

    def __init__(self, judge: Qwen2VLJudge, template: str):
        self.judge = judge
        self.template = template

    def use_local_devices(self) -> None:
        """Shards later batches over this host's devices; see `Qwen2VLJudge`."""
        self.judge.use_local_devices()

    def reduce_frame(self, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        """The frame [h, w, 3] in the size that the model reads."""
        return self.judge.reduce_frame(frame)

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """The text about a video of each prompt.

        Raises:
          BadInput: a prompt holds a special token.
        """
        for prompt in prompts:
            self.judge.processor.check_prompt(prompt)
        return [self.template.replace(SLOT, prompt) for prompt in prompts]
