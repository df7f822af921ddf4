"""Every field a configuration has, with its type and its default: the method's constants on the embedded models.

A file in configs/ starts from `get_config()` here and sets what its experiment changes. `mini:...` names files that
come with the package. A field whose default is None takes the value of the checkpoint it belongs to.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.train.config import dpo_config, sft_config


def get_config() -> ConfigDict:
    """A new configuration: fields may be changed, not added. Constants are those of arXiv 2412.15156 and its code
    unless a comment says otherwise."""
    config = ConfigDict(dict(
        seed=0,
        rounds=2,  # of prefer and dpo; two converge
        generator=_generator(),
        rewards=_rewards(),
        rewriter=_rewriter(),
        proposers=_proposers(),
        evolve=_evolve(),
        select=_select(),
        sft=sft_config(),
        prefer=_prefer(),
        dpo=dpo_config(),
        evaluate=_evaluate(),
        report=_report(),
    ))
    return config.lock()


def _generator() -> ConfigDict:
    return ConfigDict(dict(
        path="mini:generator",  # a diffusers folder or a hub id
        dtype="float32",
        scheduler="",  # a class name that replaces the folder's; empty: the folder's own
        batch=16,  # videos in one compiled program; the last batch is filled up
        num_frames=placeholder(int),
        height=placeholder(int),
        width=placeholder(int),
        steps=placeholder(int),
        guidance_scale=placeholder(float),
        use_dynamic_cfg=placeholder(bool),
        zero_uncond=placeholder(bool),
        fps=placeholder(int),
    ))


def _rewards() -> ConfigDict:
    # FAITH is scored with the others, but is a floor: it never enters the sum
    return ConfigDict(dict(
        entries=(
            dict(name="aesthetic", path="mini:aesthetic"),
            dict(name="clip_alignment", path="mini:clip"),
            dict(name="motion"),
            dict(name="faithfulness"),
        ),
        weights=dict(AES=1.0, TVA=1.0, TC=1.0, DD=1.0),
        thresholds=dict(),  # a rewrite may only be selected or chosen above these
        floors=dict(FAITH=0.7),
    ))


def _rewriter() -> ConfigDict:
    return ConfigDict(dict(
        path="mini:rewriter",  # a Hugging Face folder, a hub id or a .gguf file
        dtype="float32",
        template="",  # a chat template file; empty: the checkpoint's own
        rows=16,  # answers sampled in one compiled program
    ))


def _proposers() -> ConfigDict:
    # name -> kind (lexicon, local, chat), its share of the rewrites, and the arguments of its class in pav_jax/evolve
    return ConfigDict(dict(
        # offline: recombines clauses of the best rewrites so far
        lexicon=dict(kind="lexicon", share=1.0, first_round=1, last_round=0),
        # the rewriter itself
        local=dict(kind="local", share=1.0, first_round=1, last_round=0),
    ))


def _evolve() -> ConfigDict:
    return ConfigDict(dict(
        prompts="mini:prompts/evolve.txt",
        count=0,  # the first so many prompts; 0 takes all
        rounds=8,
        children=3,  # new rewrites per prompt and round
        top=3,  # best rewrites so far that the proposer is shown
        attempts=2,  # how often a proposer is asked when it gives too few
        max_words=200,  # longer proposals are dropped
        propose_batch=0,  # prompts whose proposals are made while others generate; 0: all at once
        weights=placeholder(dict),  # of overall in this stage; None: rewards.weights
        keep_videos="none",  # none, best or all
    ))


def _select() -> ConfigDict:
    return ConfigDict(dict(
        max_words=130,
        min_gain=0.0,  # of overall over the user's own prompt
        pareto=False,  # True: no weighted reward may fall below the user's own prompt's
        weights=placeholder(dict),  # None: evolve.weights, then rewards.weights
        thresholds=placeholder(dict),  # None: rewards.thresholds
        floors=placeholder(dict),  # None: rewards.floors
    ))


def _prefer() -> ConfigDict:
    return ConfigDict(dict(
        prompts="mini:prompts/prefer.txt",  # shared out over the rounds: each round sees new ones
        count=0,  # prompts per round; 0: an equal part of the file
        samples=5,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        max_new_tokens=250,
        sample_batch=32,  # prompts sampled while others generate
        margin=1.4,  # a rejected rewrite lies more than this below the chosen one in overall
        max_words=130,  # of a chosen rewrite
        length_match=0.0,  # largest relative difference of a pair's word counts; 0: any
        weights=placeholder(dict),  # None: rewards.weights
        thresholds=placeholder(dict),
        floors=placeholder(dict),
        keep_videos="none",
    ))


def _evaluate() -> ConfigDict:
    return ConfigDict(dict(
        # set name -> file: .txt with one prompt a line, or .jsonl with `prompt` and optionally `oracle`
        prompts=dict(in_domain="mini:prompts/in_domain.jsonl", held_out="mini:prompts/held_out.jsonl"),
        count=0,  # the first so many prompts of each set; 0 takes all
        systems=("original", "base", "sft", "dpo_1", "dpo_2"),
        files=dict(),  # further systems: name -> .jsonl of `prompt` and `refined`
        controls=True,
        seeds=(0, 1),  # the generator's; every system is measured with the same ones
        suffix_prompts=24,  # training prompts on which the best fixed suffix is found
        resamples=10_000,
        save_videos=True,
    ))


def _report() -> ConfigDict:
    return ConfigDict(dict(
        title="Prompt booster report",
        examples=8,  # shown per prompt set, evenly spaced in the file
        worst=4,  # largest losses shown per prompt set
    ))
