"""The whole recipe on the embedded models.

    pav run --config=configs/mini.py --workdir=runs/mini

Hardware: 2 processor cores and 8 GB of memory, no accelerator, no network.
"""

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.train.config import ALL_LINEARS

NEW_TOKENS = 72  # the longest rewrite the embedded generator reads is 64 tokens


def get_config() -> ConfigDict:
    config = defaults.get_config()

    config.mesh.data = -1  # every core takes its share of a batch
    config.rewriter.max_new_tokens = NEW_TOKENS
    config.rewriter.temperature = 0.1  # of every rewriter that is measured; while they are trained they explore more
    config.proposers.local.max_new_tokens = NEW_TOKENS
    # Among videos AES spreads by about 0.6 and TVA by about 4: these weights make them count alike.
    config.rewards.weights = {"AES": 1.0, "TVA": 0.15, "TC": 1.0, "DD": 1.0}
    config.rewards.floors = {"FAITH": 0.95}  # a rewrite to learn from keeps every word that counts
    config.evolve.count = 96
    config.evolve.rounds = 2
    config.evolve.children = 4
    config.proposers.lexicon.share = 3.0  # from the second round on, three rewrites in four are bred

    for stage in (config.sft, config.dpo, config.grpo):
        stage.batch_size = 16
        stage.grad_accumulation = 1
        stage.remat = False
        stage.unroll = True
        stage.save_every = 20
        stage.lora.r = 16
        stage.lora.alpha = 32.0
        stage.lora.target_modules = ALL_LINEARS
    config.sft.batch_size = 8
    config.sft.learning_rate = 2e-3  # a model of 1.8 million parameters takes larger steps than one of 8 billion
    config.sft.schedule = "linear"
    config.sft.grad_clip = 1.0
    config.sft.epochs = 6.0  # the generator's dialect is learnt by then; more passes learn the few pairs by heart
    config.dpo.learning_rate = 2e-3
    config.dpo.loss_type = ("sigmoid", "sft")  # the second keeps the text whole while the first moves it
    config.dpo.loss_weights = (1.0, 1.0)
    config.dpo.epochs = 3.0
    config.sft.max_length = config.dpo.max_length = 128

    # `pav grpo` is no part of `pav run`.
    config.grpo.steps = 50
    config.grpo.batch_size = 32
    config.grpo.max_completion_length = NEW_TOKENS
    config.grpo.learning_rate = 2e-3
    config.grpo.temperature = 0.6  # at 1 what differs between completions is mostly slips, which 0.1 does not make
    config.grpo.beta = 0.04

    config.prefer.count = 80
    config.prefer.samples = 4
    config.prefer.temperature = 0.8  # near what boosters write; at 1 most pairs teach only to avoid slips
    config.prefer.floors_first = True
    config.prefer.margin = 0.5  # about half a deviation of overall among one prompt's candidates
    config.prefer.max_words = 42  # longer ones, which the generator does not read to their end, are never the better
    config.prefer.max_new_tokens = NEW_TOKENS
    config.evaluate.seeds = (0,)
    config.evaluate.suffix_prompts = 12

    # `pav trust` and `pav calibrate` are no part of `pav run` either.
    config.trust.count = 32
    config.trust.seeds = (0, 1, 2)
    config.calibrate.weights = {"AES": 1.0, "TVA": 1.0, "TC": 1.0, "DD": 1.0}
    return config
