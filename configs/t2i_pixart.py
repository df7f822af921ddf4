r"""The method on text-to-image: PixArt-Sigma through the diffusers back end, one frame a video
(extra `torch`).

    pip install -e ".[torch]"
    pav generate "a girl is playing guitar" --out=pictures \
        --model=diffusers:PixArt-alpha/PixArt-Sigma-XL-2-512-MS
    pav run --config=t2i_pixart --workdir=runs/t2i_pixart \
        --config.rewards.entries.aesthetic.path=CLIP-L \
        --config.rewards.entries.clip_alignment.path=CLIP-L \
        --config.rewards.entries.mps.path=MPS

CLIP-L is openai/clip-vit-large-patch14 with LAION's linear head, MPS the converted
MPS_overall_checkpoint: `pav export --to=pav` makes both folders. Rewards: AES, MPS and CLIP's TVA,
with the text-only FAITH as the constraint; the temporal scores (TC, DD, FC) are skipped. An
entry `videoscore` may replace clip_alignment; of its scores VQ and TVA remain for a single frame.

Hardware: one GPU of 24 GB for torch; JAX must not preallocate its memory
(XLA_PYTHON_CLIENT_PREALLOCATE=false). Not run on a GPU yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load
from pav_jax.rewards.suite_config import TEMPORAL_SCORES


def get_config() -> ConfigDict:
    """The configuration: `llama3_8b.py` with a diffusers generator of single images."""
    config = load(Path(__file__).with_name("llama3_8b.py"))
    config.generator.path = "diffusers:PixArt-alpha/PixArt-Sigma-XL-2-512-MS"
    config.generator.dtype = "float16"
    config.generator.batch_size = 8
    config.generator.num_frames = 1
    config.generator.height = config.generator.width = 512
    config.generator.num_inference_steps = 20
    config.generator.guidance_scale = 4.5

    with config.unlocked():
        config.rewards.entries = dict(
            aesthetic=dict(path="CLIP-L", frames=1),
            clip_alignment=dict(path="CLIP-L", frames=1),
            mps=dict(path="MPS", frames=1),
            faithfulness=dict(),
        )
        # AES as the method weighs it while evolving, MPS too; CLIP's TVA, 100 times a cosine of 0.2
        # to 0.35, spreads by about 3 among the pictures of a prompt
        config.rewards.weights = dict(AES=5 / 8, MPS=1 / 4, TVA=1 / 10)
    config.rewards.skip = TEMPORAL_SCORES
    return config
