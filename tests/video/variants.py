"""Variants of a model that run its compiled programs, so that a test compiles nothing twice."""

import jax.numpy as jnp
import numpy as np

from pav_jax.video import VideoModel
from pav_jax.video.generator import NOT_FINITE


def share_compiled(model, other):
    for name in ("encoder", "denoiser", "decoder"):
        other.programs.__dict__[name] = getattr(model.programs, name)


def poisoned(model: VideoModel, word: str) -> VideoModel:
    """The same model, but a prompt with this word gives NaN."""
    table = model.params["text_encoder"]["embed"]["embedding"]
    token = int(model.family.tokenize([word], 8)[0][0, 0])
    params = {
        **model.params,
        "text_encoder": {
            **model.params["text_encoder"],
            "embed": {"embedding": table.at[token].set(jnp.nan)},
        },
    }
    sick = VideoModel(model.family, params, model.settings)
    share_compiled(model, sick)
    return sick


def check_a_nan_stays_in_its_own_video(model, prompts, seeds, videos):
    """`videos`: the model's of three prompts, of which the second is about cats."""
    made = poisoned(model, "cats").generate_batch(prompts, seed=seeds)
    assert made.errors == [None, NOT_FINITE, None]
    np.testing.assert_array_equal(made.videos[[0, 2]], videos[[0, 2]])
