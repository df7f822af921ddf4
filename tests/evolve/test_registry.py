import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.evolve.lexicon_proposer import LexiconProposer
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.options import LocalOptions
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ProposerSystem
from pav_jax.evolve.registry import KINDS, build_mixture, check_config, parse_entry
from pav_jax.plugins import import_plugin
from tests.fakes import FakeLanguageModel, make_config


class Suffix(Proposer):
    """A user's proposer, named in the tests below as tests.evolve.test_registry:Suffix."""

    def propose(self, requests):
        return [[f"{r.prompt}, sharp"] for r in requests]


def config_with(entries):
    config = make_config()
    with config.unlocked():
        config.proposers = entries
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_class_has_options(kind):
    path, options = KINDS[kind]
    assert import_plugin(path, "kind").options is options


def test_check_config_defaults():
    check_config(make_config().proposers)


def test_parse_entry_options():
    entry = parse_entry("early", {"kind": "local", "last_round": 1, "temperature": 0.5, "top_k": 3})
    assert entry.options == LocalOptions(temperature=0.5, top_k=3)
    assert (entry.share, entry.first_round, entry.last_round) == (1.0, 1, 1)
    assert parse_entry("lexicon", {}).kind == "lexicon"


@pytest.mark.parametrize(
    "entry, field",
    [
        ({"kind": "oracle"}, "proposers.x.kind"),
        ({"kind": "no_such_module:Mine"}, "proposers.x.kind"),
        ({"kind": "pav_jax.errors:BadInput"}, "proposers.x.kind"),
        ({"kind": "lexicon", "temprature": 1.0}, "proposers.x.temprature"),
        ({"kind": "local", "temperature": "hot"}, "proposers.x.temperature"),
        ({"kind": "chat", "model": None}, "proposers.x.model"),
        ({"kind": "chat", "options": [1]}, "proposers.x.options"),
        ({"kind": "tests.evolve.test_registry:Suffix", "words": 3}, "proposers.x.words"),
    ],
)
def test_parse_entry_unusable(entry, field):
    with pytest.raises(BadInput) as caught:
        parse_entry("x", entry)
    assert caught.value.field == field


def test_build_mixture():
    config = config_with(
        {
            "early": {"kind": "local", "share": 2.0, "last_round": 1, "temperature": 0.5},
            "lexicon": {"share": 0.5},
            "off": {"kind": "chat", "share": 0.0},
        }
    )
    config.evolve.max_proposal_attempts = 4
    mixture = build_mixture(config, FakeLanguageModel, lambda prompt, rewrite: 1.0)
    early, lexicon = mixture.entries
    assert isinstance(early.proposer, LocalProposer) and early.proposer.name == "early"
    assert (early.share, early.last_round) == (2.0, 1)
    assert isinstance(lexicon.proposer, LexiconProposer)
    assert mixture.max_attempts == 4


def test_build_mixture_loads_language_model_only_for_local():
    def load():
        raise AssertionError("no proposer needs it")

    build_mixture(config_with({"lexicon": {}}), load)
    with pytest.raises(BadInput) as caught:
        build_mixture(config_with({"local": {}}))
    assert caught.value.field == "proposers.local"


def test_build_mixture_without_share():
    with pytest.raises(BadInput) as caught:
        build_mixture(config_with({"lexicon": {"share": 0.0}}))
    assert caught.value.field == "proposers"


def test_build_mixture_plugin():
    config = config_with({"mine": {"kind": "tests.evolve.test_registry:Suffix"}})
    request = ProposalRequest("a dog", (("a dog", {}),), 1, 0)
    assert build_mixture(config).propose([request]) == [[("mine", "a dog, sharp")]]


def test_default_lexicon_share_is_zero():
    entries = ConfigDict(make_config().proposers)
    assert entries.lexicon.share == 0.0


def test_proposer_system_without_rewrite():
    class Mute(Suffix):
        fingerprint = "mute-1"

        def propose(self, requests):
            return [[] if "dog" in r.prompt else ["better"] for r in requests]

    system = ProposerSystem(Mute())
    assert system(["a dog", "a cat"], seed=3) == ["a dog", "better"]
    assert system.fingerprint == "mute-1"
