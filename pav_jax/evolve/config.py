"""The fields of the configuration's `proposers`, `evolve` and `select` sections; imports nothing
heavy."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def proposers_config() -> ConfigDict:
    """Name -> entry; a share of 0 switches a proposer off. Entries of one's own are added by name
    with a `kind`."""
    # share: of each prompt's new rewrites; first_round, last_round: when it works, 0 is no last
    # round
    return ConfigDict(
        dict(
            local=dict(  # the rewriter itself
                kind="local",
                share=1.0,
                first_round=1,
                last_round=0,
                mode="rewrite",  # or history: shown the scored rewrites, as a chat model is
                template="",  # of mode history; empty: ours
                temperature=1.0,
                top_k=50,
                top_p=1.0,
                max_new_tokens=250,
                batch_size=32,  # prompts given to the model at once
            ),
            lexicon=dict(  # offline; learns from the pool, so it starts when there is one
                kind="lexicon",
                share=1.0,
                first_round=2,
                last_round=0,
                phrases="",  # a file in place of phrases.json
            ),
            chat=dict(  # any OpenAI-compatible endpoint
                kind="chat",
                share=0.0,
                first_round=1,
                last_round=0,
                base_url="https://api.openai.com/v1",
                model="",
                # the environment variable that holds the key; empty: no key
                api_key_env="OPENAI_API_KEY",
                template="",
                concurrency=16,
                timeout_s=60.0,
                max_retries=4,
                max_backoff_s=60.0,  # seconds between attempts, at most
                max_consecutive_failures=8,  # prompts without any answer in a row
                options=dict(),  # of the chat completion call: temperature, max_tokens, seed, ...
            ),
        )
    )


def evolve_config() -> ConfigDict:
    """Defaults: the published run (gpt_boost.py)."""
    return ConfigDict(
        dict(
            prompts="mini:prompts/evolve.txt",
            count=0,  # the first so many prompts; 0 takes all
            rounds=8,
            children=3,  # new rewrites per prompt and round
            top=3,  # best rewrites so far that the proposer is shown
            weights=None,  # of overall while evolving; None: rewards.weights
            # who is shown as best: sum (overall), pareto (fronts, then overall) or average_rank
            # (mean place per reward)
            ranking="sum",
            # whoever keeps these is shown before whoever does not; None: none where ranking is sum,
            # else rewards.constraints
            floors=None,
            # none, all, or best: those that beat every earlier round of their prompt
            keep_videos="none",
            propose_batch=0,  # prompts proposed for at once; 0: twice the generator's batch
            attempts=2,  # how often a prompt's missing rewrites are asked for
            max_words=200,  # longer rewrites are not tried
            # cheap first: every rewrite gets a draft, and only the best ones a full video
            draft=dict(
                keep=1.0,  # share of a prompt's rewrites of a round that get one; 1: no drafts
                # share of prompts of which all do, to measure what drafts are worth (drafts.json)
                audit=0.1,
                num_inference_steps=placeholder(
                    int
                ),  # of the drafts; what is not set is as in full videos
                num_frames=placeholder(int),
                height=placeholder(int),
                width=placeholder(int),
            ),
        )
    )


def select_config() -> ConfigDict:
    return ConfigDict(
        dict(
            weights=None,  # None: evolve.weights, then rewards.weights
            ranking="sum",  # who is the best: sum, pareto, average_rank, as in evolve
            thresholds=None,  # None: rewards.thresholds; {} for none
            floors=None,  # None: rewards.constraints; {} for none
            min_gain=0.0,  # of overall over the user's own prompt, whatever the ranking
            max_words=130,
            pareto=False,  # True: no weighted reward may be below the user's own prompt's
        )
    )
