"""The embedded models with a second held-out judge, the embedded VideoReward: visual quality,
motion quality and text alignment, a third score of alignment beside VideoScore's and CLIP's.

    pav trust --config=configs/mini_videoreward.py --workdir=runs/trust_videoreward
    pav run --config=configs/mini_videoreward.py --workdir=runs/mini_videoreward

To optimize it, and hold VideoScore out, swap the two:

    pav run --config=configs/mini_videoreward.py --workdir=runs/on_videoreward \
        --config.rewards.entries="{'videoreward': {'path': 'mini:videoreward', \
            'template': 'mini:videoreward/template.txt', 'batch_size': 16}, 'faithfulness': {}}" \
        --config.rewards.held_out="({'name': 'videoscore', 'path': 'mini:videoscore', \
            'query': 'mini:videoscore/query.txt', 'frames': 5, 'batch_size': 16},)" \
        --config.rewards.weights="{'VR_VQ': 1.0, 'VR_MQ': 1.0, 'VR_TA': 1.0}" \
        --config.rewards.thresholds="{}" --config.prefer.weights=None \
        --config.calibrate.weights=None

Hardware: 2 CPU cores and 4 GB of memory, no accelerator, no network.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

VIDEOREWARD = {
    "name": "videoreward",
    "path": "mini:videoreward",
    "template": "mini:videoreward/template.txt",
    "batch_size": 16,
}


def get_config() -> ConfigDict:
    """The configuration: `mini.py` with one more held-out evaluator."""
    config = load(Path(__file__).with_name("mini.py"))
    config.rewards.held_out = (*config.rewards.held_out, VIDEOREWARD)
    return config
