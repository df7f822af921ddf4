"""The sections of the configuration hold exactly what the stages read."""

import inspect

from ml_collections import ConfigDict

from pav_jax.evolve.chat_proposer import ChatProposer
from pav_jax.evolve.config import evolve_config, proposers_config, select_config
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.lexicon_proposer import LexiconProposer
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposers import make_proposers
from pav_jax.evolve.select import select
from pav_jax.prefer.config import prefer_config
from pav_jax.prefer.pairs import make_pairs
from pav_jax.prefer.sampling import make_candidates
from tests.fakes import PROMPTS, Generator, Rewriter, Suite


def test_an_entry_has_every_argument_of_its_proposer():
    kinds = {"local": LocalProposer, "lexicon": LexiconProposer, "chat": ChatProposer}
    for name, entry in proposers_config().items():
        arguments = set(inspect.signature(kinds[name]).parameters) - {
            "name",
            "language_model",
            "faith",
        }
        assert set(entry) == arguments | {"kind", "share", "first_round", "last_round"}


def test_the_default_sections_run_locked_and_take_weights_and_limits_later(tmp_path):
    settings = ConfigDict(
        dict(
            seed=0,
            generator=dict(batch_size=4),
            proposers=proposers_config(),
            evolve=evolve_config(),
            select=select_config(),
            prefer=prefer_config(),
        )
    ).lock()
    settings.evolve.rounds, settings.evolve.children, settings.prefer.margin = 2, 2, 0.1
    settings.select.floors, settings.prefer.thresholds = {"FAITH": 0.5}, {"AES": 0.1}
    settings.evolve.weights = {"AES": 1.0}
    proposers = make_proposers(settings, Rewriter(), lambda p, r: 1.0)
    pool = evolve(settings, PROMPTS, proposers, Generator(), Suite(), tmp_path)
    assert {c.proposer for c in pool} == {"user", "local", "lexicon"}
    assert {c.proposer for c in pool if c.round == 1} == {"local"}
    assert select(settings, pool, Suite())
    candidates = make_candidates(settings, PROMPTS, Rewriter(), Generator(), Suite(), tmp_path, 1)
    assert make_pairs(candidates, Suite(), settings)
