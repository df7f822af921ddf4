"""The whole recipe on the embedded models at the sizes of the tables in docs/results.md, with all
seven rewards of the method: VideoScore's five, MPS, aesthetic. `mini.py` is the same with fewer
prompts.

    pav run --config=mini_full --workdir=runs/mini_full

The embedded VideoScore and MPS have the published architectures and are trained on labels of known
corruptions (`python -m pav_jax.mini.training.reward_check` measures them on unseen ones).

Hardware: 2 CPU cores and 8 GB of memory, no accelerator, no network.
"""

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.train.config import ALL_LINEAR

NEW_TOKENS = 72  # the longest rewrite the embedded generator reads is 64 tokens
# The published weights (arXiv 2412.15156, its code), for unscaled scores.
PUBLISHED_EVOLVE = {
    "VQ": 1.0,
    "TC": 1.0,
    "DD": 0.5,
    "TVA": 1.0,
    "FC": 1.0,
    "AES": 5 / 8,
    "MPS": 1 / 4,
}
PUBLISHED_PREFER = {
    "VQ": 1.0,
    "TC": 1.0,
    "DD": 1.1,
    "TVA": 1.3,
    "FC": 1.0,
    "AES": 0.8,
    "MPS": 1 / 3,
}
# The same for the scores of the embedded rewards, and the thresholds, printed by
#     pav evolve --config=configs/mini_full.py --workdir=runs/c \
#         --config.evolve.max_prompts=32 --config.evolve.rounds=1
#     pav calibrate --workdir=runs/c
# with PUBLISHED_EVOLVE as rewards.weights and no thresholds; for PREFER, PUBLISHED_PREFER is
# calibrate.weights.
EVOLVE = {"VQ": 1.00, "TC": 1.60, "DD": 0.66, "TVA": 0.61, "FC": 1.45, "AES": 0.66, "MPS": 0.20}
PREFER = {"VQ": 1.02, "TC": 1.62, "DD": 1.47, "TVA": 0.80, "FC": 1.47, "AES": 0.85, "MPS": 0.27}
THRESHOLDS = {"VQ": 2.08, "TC": 2.82, "DD": 2.51, "TVA": 1.78, "FC": 3.16, "AES": 4.97, "MPS": 1.10}


def get_config() -> ConfigDict:
    """The configuration: the defaults with all rewards and settings for two CPU cores."""
    config = defaults.get_config()

    config.mesh.data = -1  # batches are split over the cores
    config.rewriter.max_new_tokens = NEW_TOKENS
    # of evaluation; rewrites for training are sampled at higher temperatures
    config.rewriter.temperature = 0.1
    config.proposers.local.max_new_tokens = NEW_TOKENS
    with config.unlocked():
        config.rewards.entries = {
            "videoscore": {
                "path": "mini:videoscore",
                "query": "mini:videoscore/query.txt",
                "frames": 5,
                "batch_size": 16,
            },
            "aesthetic": {"path": "mini:clip", "frames": 4, "layout": "sheet"},
            "mps": {"path": "mini:mps", "condition": "mini:mps/condition.txt", "frames": 4},
            "faithfulness": {},
        }
        config.rewards.weights = EVOLVE
        config.rewards.thresholds = THRESHOLDS
        config.prefer.weights = PREFER
        config.calibrate.weights = PUBLISHED_EVOLVE
        # The published scores' ranges, VideoScore's being 1: AES about 3 to 8, MPS about 5 to 15,
        # the five 1 to 4.
        config.calibrate.published_deviations = {"AES": 5 / 3, "MPS": 10 / 3}
    # CLIP's alignment is a held-out evaluator: never used for selection.
    config.rewards.held_out = (
        {"name": "clip_alignment", "path": "mini:clip", "frames": 4, "layout": "sheet"},
    )
    # a rewrite to learn from keeps nearly every word that FAITH counts
    config.rewards.constraints = {"FAITH": 0.95}
    config.evolve.max_prompts = 128
    config.evolve.rounds = 2
    config.evolve.num_rewrites = 4
    # from the second round on, it proposes three rewrites in four
    config.proposers.lexicon.share = 3.0

    for stage in (config.sft, config.dpo, config.grpo):
        stage.batch_size = 16
        stage.gradient_accumulation_steps = 1
        stage.remat = False
        stage.unroll_layers = True
        stage.save_steps = 20
        stage.lora.r = 16
        stage.lora.lora_alpha = 32.0
        stage.lora.target_modules = (ALL_LINEAR,)
    config.sft.batch_size = 8
    # a model of 1.8 million parameters takes larger steps than one of 8 billion
    config.sft.learning_rate = 4e-3
    config.sft.lr_scheduler_type = "linear"
    config.sft.max_grad_norm = 1.0
    # the generator's caption style is learned by then; more epochs memorize the few pairs
    config.sft.num_train_epochs = 6.0
    # at 2e-3 the second round overfits the noise in its few hundred pairs
    config.dpo.learning_rate = 1e-3
    # the SFT term keeps the text fluent while the DPO term changes it
    config.dpo.loss_type = ("sigmoid", "sft")
    config.dpo.loss_weights = (1.0, 1.0)
    config.dpo.num_train_epochs = 3.0
    config.sft.max_length = config.dpo.max_length = 128

    # `pav grpo` is not part of `pav run`.
    config.grpo.max_steps = 50
    config.grpo.batch_size = 32
    config.grpo.max_completion_length = NEW_TOKENS
    config.grpo.learning_rate = 2e-3
    # at 1 completions differ mostly by sampling errors, which do not occur at 0.1
    config.grpo.temperature = 0.6
    config.grpo.beta = 0.04

    config.prefer.num_return_sequences = 4
    # near what boosters write; at 1 most pairs only teach to avoid sampling errors
    config.prefer.temperature = 0.6
    config.prefer.feasible_first = True
    # thresholds matter for SFT pairs, which are imitated; a preference only ranks two rewrites
    config.prefer.thresholds = {}
    config.prefer.margin = 0.7  # about half a deviation of overall among one prompt's candidates
    # longer rewrites exceed what the generator reads; they are never the chosen ones
    config.prefer.max_words = 42
    config.prefer.max_new_tokens = NEW_TOKENS
    config.evaluate.seeds = (0,)
    config.evaluate.num_suffix_prompts = 12

    # `pav trust` and `pav calibrate` are not part of `pav run` either.
    config.trust.max_prompts = 32
    config.trust.seeds = (0, 1, 2)
    with config.unlocked():
        config.trust.score_ranges = {"MPS": None}  # scores of the embedded MPS are about -6 to 6
    # so that three prompts in four have a rewrite above all seven thresholds
    config.calibrate.quantile = 0.2
    return config
