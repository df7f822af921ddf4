"""Offline proposals: learned from the pool, true to the user's words, deterministic."""

import ast
import pathlib
from collections import Counter

import numpy as np
import pytest

from pav_jax.evolve import lexicon, lexicon_proposer, phrase_bank
from pav_jax.evolve.clauses import content
from pav_jax.evolve.lexicon_proposer import LexiconProposer
from pav_jax.evolve.proposer import ProposalRequest, ScoredRewrite

SUBJECTS = [
    "red ball",
    "blue fish",
    "old man",
    "tall tree",
    "wooden boat",
    "black cat",
    "paper kite",
    "stone bridge",
]
LOOKS = {
    "light": ("the light is dim", "the light is bright"),
    "focus": ("the focus is blurry", "the focus is sharp"),
    "steadiness": ("the shot is shaky", "the shot is steady"),
}


def pool(seed: int, rewrites: int = 6) -> list[ScoredRewrite]:
    """Rewrites whose score counts the good looks, plus noise."""
    rng = np.random.default_rng(seed)
    scored = []
    for subject in SUBJECTS:
        prompt = f"a {subject} moving"
        scored.append(ScoredRewrite(prompt, prompt, 0.0, {}))
        for _ in range(rewrites):
            levels = rng.integers(0, 2, len(LOOKS))
            opening = rng.choice(["a movie of", "people showing"])
            text = (
                f"{opening} a {subject} moving over a carpet. "
                + ", ".join(look[k] for look, k in zip(LOOKS.values(), levels, strict=True))
                + "."
            )
            scored.append(
                ScoredRewrite(
                    prompt,
                    text,
                    float(levels.sum() - 1.5 + (opening == "a movie of") + 0.3 * rng.normal()),
                    {},
                )
            )
    return scored


def requests(scored, n=3, round=2) -> list[ProposalRequest]:
    rows = {}
    for s in scored:
        rows.setdefault(s.prompt, []).append(s)
    return [
        ProposalRequest(
            p,
            ((p, {}), *((s.refined, {}) for s in sorted(r[1:], key=lambda s: -s.overall)[:3])),
            n,
            1000 + i,
            round,
            frozenset(s.refined for s in r),
        )
        for i, (p, r) in enumerate(rows.items())
    ]


def proposer(scored, **arguments) -> LexiconProposer:
    made = LexiconProposer(**arguments)
    made.observe(scored)
    return made


def test_propose_uses_clauses_that_scored_well():
    scored = pool(0)
    perfect = Counter()
    for request, children in zip(
        requests(scored), proposer(scored).propose(requests(scored)), strict=True
    ):
        assert len(children) == 3
        for child in children:
            perfect[request.prompt] += child.startswith("a movie of a ") and all(
                good in child and poor not in child for poor, good in LOOKS.values()
            )
    assert len(perfect) == len(SUBJECTS) and all(perfect.values())


def test_propose_replaces_free_openings_only():
    scored = pool(6)
    made = proposer(scored)
    for prompt, rewrite, wanted in (
        (
            "a grey goose",
            "people showing a grey goose. the light is dim.",
            "a movie of a grey goose. the light is br",
        ),
        (
            "a bowl of rice",
            "A bowl of rice. The light is dim.",
            "A movie of a bowl of rice. The light is bright",
        ),
    ):
        request = ProposalRequest(prompt, ((prompt, {}), (rewrite, {})), 1, 0)
        assert made.propose([request])[0][0].startswith(wanted)


def test_propose_new_texts_with_all_words_of_prompt():
    scored = pool(1)
    for request, children in zip(
        requests(scored, n=5), proposer(scored).propose(requests(scored, n=5)), strict=True
    ):
        assert len(children) == len(set(children)) == 5
        assert not set(children) & request.tried
        assert all(content(request.prompt) <= content(child) for child in children)
        others = set(SUBJECTS) - {s for s in SUBJECTS if s in request.prompt}
        assert not any(other in child for other in others for child in children)


def test_propose_does_not_depend_on_other_requests():
    scored = pool(2)
    together = proposer(scored).propose(requests(scored))
    assert together == proposer(scored[::-1]).propose(requests(scored))
    assert together[3:4] == proposer(scored).propose(requests(scored)[3:4])
    other = [
        ProposalRequest(r.prompt, r.history, r.num_rewrites, r.seed + 1, r.round, r.tried)
        for r in requests(scored)
    ]
    assert proposer(scored).propose(other) != together


def test_propose_leaves_the_look_in_the_prompt():
    prompt = "a fox in dim light"
    request = ProposalRequest(
        prompt, ((prompt, {}), ("a movie of a fox in dim light, the shot is shaky", {})), 6, 3
    )
    (children,) = proposer(pool(3)).propose([request])
    assert children and all("dim light" in child and "bright" not in child for child in children)


def test_propose_without_pool():
    request = ProposalRequest("a fox sleeps", (("a fox sleeps", {}),), 3, 5)
    (children,) = LexiconProposer().propose([request])
    assert len(children) == 3 and all(child.startswith("a fox sleeps. ") for child in children)


def test_propose_unfaithful_text():
    scored = pool(4)

    def faithfulness(prompt, refined):
        return 0.0 if "steady" in refined else 1.0

    children = proposer(scored, faithfulness=faithfulness).propose(requests(scored))
    texts = [text for row in children for text in row]
    parents = [text for r in requests(scored) for text, _ in r.history]
    assert texts and all(
        "steady" not in text or any("steady" in p for p in parents) for text in texts
    )
    own = [text for text in texts if "moving over" not in text]
    assert own and all("steady" not in text for text in own)


def test_propose_synonyms_need_faithfulness():
    scored = []
    for i, subject in enumerate(["ball", "fish", "boat", "kite", "tree", "fox"]):
        for colour, said in (("crimson", "red"), ("green", "green")):
            prompt = f"a {colour} {subject} waits"
            scored.append(ScoredRewrite(prompt, prompt, 0.0, {}))
            text = f"a movie of a {said} {subject} that waits, take"
            scored += [ScoredRewrite(prompt, f"{text} {k}", 1.0 + i, {}) for k in range(2)]
    request = ProposalRequest("a crimson bird waits", (("a crimson bird waits", {}),), 6, 0)
    (free,) = proposer(scored, faithfulness=lambda p, r: 1.0).propose([request])
    assert any("a red bird waits" in child for child in free) and any(
        "crimson" in child for child in free
    )
    (strict,) = proposer(scored, faithfulness=lambda p, r: float("crimson" in r)).propose([request])
    assert all("a crimson bird waits" in child for child in strict)
    (without,) = proposer(scored).propose([request])
    assert all("crimson" in child for child in without)


@pytest.mark.parametrize("better", ["scarlet", "crimson", "red"])
def test_propose_best_synonym(better):
    rng = np.random.default_rng(3)
    scored = []
    for subject in ("ball", "fish", "tree", "boat", "cat", "kite", "bridge", "house"):
        prompt = f"a red {subject}"
        for i, word in enumerate(
            ["scarlet"] * 4 + ["crimson"] * 2 + ["red"] * 2
        ):  # the commonest is not the best
            text = f"a {word} {subject}, seen from take {subject} {i}"
            scored.append(ScoredRewrite(prompt, text, (word == better) + 0.3 * rng.normal(), {}))
        scored += [
            ScoredRewrite(f"a blue {subject}", f"a blue {subject}, seen {i} times", 0.0, {})
            for i in range(3)
        ]
    request = ProposalRequest(
        "a red horse",
        (("a red horse", {}), ("a red horse, still", {})),
        3,
        0,
        2,
        frozenset({"a red horse"}),
    )
    [children] = proposer(
        scored, faithfulness=lambda prompt, rewrite: float("horse" in rewrite)
    ).propose([request])
    assert any(f"{better} horse" in child for child in children)
    assert not any(
        f"{other} horse" in child
        for other in {"scarlet", "crimson"} - {better}
        for child in children
    )


def test_observe_rewrite_without_score():
    scored = pool(5)
    bad = [
        ScoredRewrite(s.prompt, s.refined.replace("bright", "blinding"), -np.inf, {})
        for s in scored
    ]
    children = proposer(scored + bad).propose(requests(scored))
    assert children == proposer(scored).propose(requests(scored))


@pytest.mark.parametrize("module", [lexicon, lexicon_proposer, phrase_bank])
def test_modules_do_not_import_mini(module):
    tree = ast.parse(pathlib.Path(module.__file__).read_text())
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any("mini" in name for name in names)


def test_effect_of_new_clause():
    made = proposer(pool(7))
    assert (
        made.bank.effect("bright, sharp and steady")
        > 0.5
        > -0.5
        > made.bank.effect("dim, blurry and shaky")
    )
    assert made.bank.effect("nothing known") == 0.0


@pytest.mark.filterwarnings("error")
def test_observe_pool_without_scores():
    lost = [ScoredRewrite("a red ball", "a scarlet ball", -np.inf, {})]
    for scored in ([], lost):
        proposer(scored, faithfulness=lambda prompt, rewrite: 1.0)
