"""Use your own reward: a function of the videos and the user's prompts.

    python examples/own_reward.py --workdir=runs/own_reward

The function is scored beside the aesthetic score, weighs twice as much, and decides what the
booster learns. In a configuration file:

    with config.unlocked():
        config.rewards.entries["warmth"] = {"kind": "examples.own_reward:warmth"}
        config.rewards.weights["warmth"] = 1.0
"""

import argparse

import numpy as np

import pav_jax as pav


def warmth(videos: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Mean red minus mean blue of each video.

    Args:
      videos: uint8 [B, T, H, W, 3].
      prompts: the users' prompts, B of them.

    Returns:
      float [B]; NaN where a video cannot be scored.
    """
    means_Bx3 = videos.mean(axis=(1, 2, 3))
    return (means_Bx3[:, 0] - means_Bx3[:, 2]) / 255


def main(workdir: str, config_name: str = "smoke") -> None:
    config = pav.load_config(config_name)
    aesthetic = pav.rewards.Aesthetic.from_pretrained("mini:clip", frames=4, layout="sheet")
    suite = pav.RewardSuite([aesthetic, warmth], weights={"AES": 1.0, "warmth": 2.0})
    report = pav.Recipe(config, rewards=suite).run(workdir)
    print(f"report: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/own_reward")
    main(parser.parse_args().workdir)
