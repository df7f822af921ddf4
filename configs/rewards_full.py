"""The method's whole suite (arXiv 2412.15156) at the published sizes, on one host of four chips:
AES, MPS, VideoScore's five, CLIP's TVA as a held-out evaluator, and the FAITH constraint.

    pav check --config=rewards_full --topology=v5e:2x2
    pav score videos/*.mp4 --prompts=prompts.txt --config=rewards_full

Replace three paths: the head of AES and MPS, folders that `pav export` converts from the published
files, and the query that VideoScore was trained with (`rewards.entries.videoscore.query`, see
pav_jax/rewards/videoscore.py).

Memory, from the TPU compiler, on a v5e-4, for videos of 480 x 720: CLIP ViT-L/14 in float32 2.0 of
16 GiB of one chip for 32 images and 0.54 for 16 texts; in bfloat16 over four chips MPS 0.90 GiB per
chip for 8 videos of 4 frames, VideoScore 1.4 for the 16 frames of a video and 3.8 for its decoder,
four videos of 1536 tokens at once. Time, estimated by `pav check`: 32 images 27 to 42 ms; 16 texts
1.1 to 1.7 ms; 8 videos by MPS 93 to 142 ms, bound by the chips' links; a video's frames 109 to 171
ms and four videos' decoder 115 to 310 ms. For 175,000 videos, 5000 prompts through the method: CLIP
0.16 to 0.26 chip-hours, MPS 2.3 to 3.5, VideoScore 27 to 48. On a v6e-4 (32 GiB a chip) the same
programs take CLIP 1.99 and 0.56, MPS 0.89, VideoScore 1.37 and 3.63 GiB; its times are printed
by `pav check --config=rewards_full --topology=v6e:2x2`, 13 to 20 chip-hours in all. Not
run on a TPU yet.
"""

from ml_collections import ConfigDict

from pav_jax import defaults

CLIP = "openai/clip-vit-large-patch14"


def get_config() -> ConfigDict:
    """The configuration: the defaults with the published rewards, weights and thresholds."""
    config = defaults.get_config()
    config.generator.path = "THUDM/CogVideoX-5b"  # its videos are what is scored
    config.generator.dtype = "bfloat16"
    with config.unlocked():
        # VideoScore's 8 billion parameters exceed the HBM of a v5e chip: they are sharded over the
        # host's chips
        config.rewards.entries = dict(
            aesthetic=dict(path=CLIP, head="checkpoints/aesthetic_head", frames=4),
            mps=dict(path="checkpoints/MPS", frames=4, dtype="bfloat16", mesh=dict(fsdp=-1)),
            videoscore=dict(
                path="TIGER-Lab/VideoScore", frames=16, dtype="bfloat16", mesh=dict(fsdp=-1)
            ),
            faithfulness=dict(),
        )
        config.rewards.weights = dict(VQ=1.0, TC=1.0, FC=1.0, DD=1.1, TVA=1.3, AES=0.8, MPS=1 / 3)
    config.check.topology = "v5e:2x2"
    config.check.programs = ("rewards",)
    config.rewards.held_out = (dict(name="clip_alignment", path=CLIP, frames=4),)
    config.evolve.weights = dict(VQ=1.0, TC=1.0, FC=1.0, TVA=1.0, DD=0.5, AES=5 / 8, MPS=1 / 4)
    config.prefer.thresholds = dict(VQ=2.6, TC=2.6, FC=2.55, DD=2.65, TVA=2.9, AES=5.5, MPS=8.5)
    return config
