"""The adapters that come with the package, on the model that they were trained on."""

import pytest

from pav_jax.booster.adapter_folders import DEFAULT, read_card, shipped, summarize
from pav_jax.booster.booster import Booster
from pav_jax.rewards.faithfulness import faithfulness
from tests import campaigns

MAX_BYTES = 6_000_000
PROMPTS = (
    "a girl is playing guitar",
    "two red kites over a beach, no people",
    "an old man reading a newspaper on a bench in the park",
    'a shop window with a sign "OPEN 24H" at night -ar 9:16',
    "a drone shot of a lighthouse in a storm",
    "three horses running through shallow water at sunrise",
)
TOY_WORDS = ("director asks", "pentagram", "a short video of")  # of the embedded models


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_adapter_is_small_and_has_a_card(name):
    folder = shipped()[name]
    summary = summarize(folder, name)
    assert summary.num_bytes <= MAX_BYTES and summary.generator == name
    card = read_card(folder)
    assert card["base_model"] == summary.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (folder / "chat_template.jinja").is_file()


def test_default_is_shipped():
    assert DEFAULT in shipped()


@pytest.mark.slow
def test_default_booster_rewrites_real_prompts():
    prompts = PROMPTS if campaigns.IS_REQUESTED else PROMPTS[2:4]  # a minute each
    rewrites = [row[0] for row in Booster.from_pretrained().refine(prompts)]
    assert {r.adapter for r in rewrites} == {DEFAULT}
    changed = [r for r in rewrites if not r.reason]
    assert len(changed) >= len(prompts) // 2
    for r in changed:
        assert len(r.refined.split()) > 3 * len(r.prompt.split())
        assert faithfulness(r.prompt, r.refined) >= 0.9
    for r in rewrites:
        assert not any(words in r.refined.lower() for words in TOY_WORDS)
        assert all(term in r.refined for term in ('"OPEN 24H"', "-ar 9:16") if term in r.prompt)
