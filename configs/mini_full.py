"""The whole recipe on the embedded models with all seven rewards of the method: VideoScore's five, MPS, aesthetic.

    pav run --config=configs/mini_full.py --workdir=runs/mini_full

The embedded VideoScore and MPS are of the published architectures, trained on declared labels of damage (`python -m
pav_jax.mini.judges` says how well they see what no training showed them). VideoScore's DD and FC are weak: they hardly
see motion and changing shapes. `configs/mini.py` therefore keeps to AES, CLIP's alignment and what frames alone tell.

Hardware: 2 processor cores and 8 GB of memory, no accelerator, no network. Not run to its end yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.config import load

# The published weights (arXiv 2412.15156, its code), of scores as they come.
PUBLISHED_EVOLVE = {"VQ": 1.0, "TC": 1.0, "DD": 0.5, "TVA": 1.0, "FC": 1.0, "AES": 5 / 8, "MPS": 1 / 4}
PUBLISHED_PREFER = {"VQ": 1.0, "TC": 1.0, "DD": 1.1, "TVA": 1.3, "FC": 1.0, "AES": 0.8, "MPS": 1 / 3}
# The same for the scores of the embedded judges, and the thresholds, written by
#     pav evolve --config=configs/mini_full.py --workdir=runs/c --config.evolve.count=32 --config.evolve.rounds=1
#     pav calibrate --workdir=runs/c
# with the weights above as rewards.weights and no thresholds; PREFER with PUBLISHED_PREFER as calibrate.weights.
EVOLVE = {"VQ": 0.95, "TC": 1.91, "DD": 0.82, "TVA": 0.54, "FC": 2.61, "AES": 0.59, "MPS": 0.18}
PREFER = {"VQ": 0.97, "TC": 1.94, "DD": 1.84, "TVA": 0.72, "FC": 2.66, "AES": 0.77, "MPS": 0.24}
THRESHOLDS = {"VQ": 2.14, "TC": 2.80, "DD": 2.47, "TVA": 1.70, "FC": 3.20, "AES": 4.97, "MPS": 1.10}


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("mini.py"))
    with config.unlocked():
        config.rewards.entries = {
            "videoscore": {"path": "mini:videoscore", "query": "mini:videoscore/query.txt", "frames": 5,
                           "batch": 16},
            "aesthetic": {"path": "mini:clip", "frames": 4, "layout": "sheet"},
            "mps": {"path": "mini:mps", "condition": "mini:mps/condition.txt", "frames": 4},
            "faithfulness": {},
        }
        config.rewards.weights = EVOLVE
        config.rewards.thresholds = THRESHOLDS
        config.prefer.weights = PREFER
        config.calibrate.weights = PUBLISHED_EVOLVE
        # The published scores' ranges, VideoScore's being 1: AES about 3 to 8, MPS about 5 to 15, the five 1 to 4.
        config.calibrate.spreads = {"AES": 5 / 3, "MPS": 10 / 3}
    # CLIP's alignment only watches: whether videos match better by a judge that nothing was chosen by.
    config.rewards.held_out = ({"name": "clip_alignment", "path": "mini:clip", "frames": 4, "layout": "sheet"},)
    config.prefer.margin = 0.7  # about half a deviation of overall among one prompt's candidates
    config.calibrate.percentile = 0.2  # so that three prompts in four have a rewrite above all seven thresholds
    return config
