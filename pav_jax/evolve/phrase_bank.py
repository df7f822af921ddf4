"""Clauses, openings and synonyms of a scored pool, with their estimated effects on overall."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from pav_jax.evolve.clauses import content, normal_form, split_clauses, words
from pav_jax.evolve.lexicon import Lexicon
from pav_jax.evolve.proposer import ScoredRewrite

MAX_CLAUSE_WORDS = 16  # maximum length of a clause that can move to another prompt
MAX_FEATURES = 600  # clauses, words, openings and word choices whose effect is estimated
# A word counts as a synonym of a user's word if at least this share of the rewrites that lack the
# user's word use it, and if they use it MIN_SYNONYM_LIFT times as often as other rewrites do.
MIN_SYNONYM_SHARE = 0.15
MIN_SYNONYM_LIFT = 8.0
MIN_EVIDENCE = 3  # minimum number of prompts, and of rewrites, that support a synonym
# Expected gain of a word that is e times as common, in standard deviations of overall.
FREQUENCY_BONUS = 0.1
RIDGE_PENALTIES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

OPENING = re.compile(
    r"^((?:[^\W_]+\s+){0,5}(?:of|showing|shows|depicting|featuring))\s+", re.IGNORECASE
)

Features = dict[str, str]  # normal form, with a prefix for the kind of feature -> text


@dataclasses.dataclass(frozen=True)
class PhraseBank:
    """Clauses and openings of a pool, best first, and their effects on overall.

    Attributes:
      effects: feature -> its coefficient, see `learn_phrases`.
      clauses: aspect ("" for none) -> clauses about it.
      openings: phrases such as "a video of".
      familiar: words of the pool's rewrites.
      synonyms: a user's word -> the word that rewrites should use instead.
    """

    effects: Mapping[str, float] = dataclasses.field(default_factory=dict)
    clauses: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    openings: Sequence[str] = ()
    familiar: frozenset[str] = frozenset()
    synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def effect(self, clause: str) -> float:
        """Return the effect of a clause with its words; of its words only if it is new."""
        form = normal_form(clause)
        return self.effects.get(form, clause_effect(self.effects, form))

    def opening_effect(self, opening: str) -> float:
        """Return the effect of an opening in lower case; 0 if it is new."""
        return self.effects.get(f"opening:{opening}", 0.0)


def learn_phrases(
    rewrites: Sequence[ScoredRewrite], lexicon: Lexicon, with_synonyms: bool
) -> PhraseBank:
    """Estimate which wording scores well.

    A ridge regression predicts overall, minus the prompt's mean, from the clauses of all rewrites
    and the words of these clauses. The effect of a clause is its coefficient plus those of its
    words. So a clause gets no credit for its neighbours, and "in sharp focus" benefits from the
    scores of "the focus is sharp".

    Args:
      rewrites: rewrites of all prompts; those without a finite overall are ignored.
      with_synonyms: also find words that should replace users' words.
    """
    scored = [rewrite for rewrite in rewrites if np.isfinite(rewrite.overall)]
    choices = _word_choices(scored, lexicon) if with_synonyms else {}
    choice_words = frozenset(choices).union(*choices.values())
    rows = [_features(rewrite, choice_words) for rewrite in scored]
    counts: collections.Counter[str] = collections.Counter()
    prompts_of: dict[str, set[str]] = collections.defaultdict(set)
    for rewrite, features in zip(scored, rows, strict=True):
        counts.update(features.keys())
        for feature in features:
            prompts_of[feature].add(rewrite.prompt)
    repeated = [feature for feature, count in counts.items() if count > 1]
    frequent = sorted(repeated, key=lambda f: (-counts[f], f))[:MAX_FEATURES]
    advantages_N = _advantages(scored)
    effects = _effects(advantages_N, rows, frequent)
    phrases = [f for f in frequent if not f.startswith(("word:", "said:"))]
    effects |= {f: clause_effect(effects, f) for f in phrases if not f.startswith("opening:")}
    bonus = FREQUENCY_BONUS * advantages_N.std() if choices else 0.0
    clauses, openings = _best_phrases(scored, rows, phrases, effects, prompts_of, lexicon)
    return PhraseBank(
        effects=effects,
        clauses=clauses,
        openings=openings,
        familiar=frozenset(w for s in scored if s.refined != s.prompt for w in words(s.refined)),
        synonyms=_best_choices(choices, effects, counts, bonus),
    )


def clause_effect(effects: Mapping[str, float], clause: str) -> float:
    """Return the effect of a clause plus those of its words."""
    return effects.get(clause, 0.0) + sum(effects.get(f"word:{w}", 0.0) for w in content(clause))


def _features(rewrite: ScoredRewrite, choice_words: frozenset[str]) -> Features:
    """Return the features of a rewrite.

    The features are its clauses without a word of the user, the words of these clauses ("word:"),
    its opening ("opening:") and the `choice_words` that it uses ("said:").
    """
    if rewrite.refined == rewrite.prompt:
        return {}
    user_roots = content(rewrite.prompt)
    features: Features = {}
    for clause in split_clauses(rewrite.refined):
        roots = content(clause.text)
        if roots and not roots & user_roots and len(clause.text.split()) <= MAX_CLAUSE_WORDS:
            features[clause.normal_form] = clause.text
    features |= {f"word:{w}": w for form in list(features) for w in content(form)}
    features |= {f"said:{w}": w for w in words(rewrite.refined) if w in choice_words}
    opening = OPENING.match(rewrite.refined)
    if opening and not content(opening[1]) & user_roots:
        features["opening:" + opening[1].lower()] = opening[1]
    return features


def _best_phrases(
    scored: Sequence[ScoredRewrite],
    rows: Sequence[Features],
    phrases: Sequence[str],
    effects: Mapping[str, float],
    prompts_of: Mapping[str, set[str]],
    lexicon: Lexicon,
) -> tuple[dict[str, list[str]], list[str]]:
    """Return (aspect -> clauses, openings), best first; no clause is about a prompt's subject."""
    subjects = frozenset().union(*(content(s.prompt) for s in scored)) - lexicon.roots
    texts = {feature: text for features in rows for feature, text in features.items()}
    clauses: dict[str, list[str]] = {}
    openings: list[str] = []
    for phrase in sorted(phrases, key=lambda f: (-effects[f], f)):
        if phrase.startswith("opening:"):
            openings.append(texts[phrase])
        elif not content(phrase) & subjects:
            aspects = lexicon.about(phrase) or ({""} if len(prompts_of[phrase]) > 1 else set())
            for aspect in aspects:
                clauses.setdefault(aspect, []).append(texts[phrase])
    return clauses, openings


# ----------------------------------------------------------------------------------- regression


def _advantages(scored: Sequence[ScoredRewrite]) -> Float[np.ndarray, "N"]:
    """Return each rewrite's overall minus the mean of its prompt."""
    by_prompt: dict[str, list[float]] = collections.defaultdict(list)
    for rewrite in scored:
        by_prompt[rewrite.prompt].append(rewrite.overall)
    return np.asarray([s.overall - np.mean(by_prompt[s.prompt]) for s in scored])


def _effects(
    advantages_N: Float[np.ndarray, "N"], rows: Sequence[Features], names: Sequence[str]
) -> dict[str, float]:
    """Return the coefficients of the features `names`."""
    if not names:
        return {}
    column = {name: j for j, name in enumerate(names)}
    x_NxF = np.zeros((len(rows), len(names)))
    for i, features in enumerate(rows):
        for feature in features:
            if feature in column:
                x_NxF[i, column[feature]] = 1
    x_NxF -= x_NxF.mean(axis=0)
    return dict(zip(names, ridge_regression(x_NxF, advantages_N).tolist(), strict=True))


def ridge_regression(
    x_NxF: Float[np.ndarray, "N F"], y_N: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "F"]:
    """Return the coefficients for the penalty with the smallest leave-one-out error.

    The noisier the scores, the more the coefficients of rare clauses shrink. Source: Golub, Heath
    and Wahba 1979.
    """
    u_NxR, s_R, v_RxF = np.linalg.svd(x_NxF, full_matrices=False)
    target_R = u_NxR.T @ y_N
    errors = []
    for penalty in RIDGE_PENALTIES:
        shrinkage_R = s_R**2 / (s_R**2 + penalty)
        residual_N = y_N - u_NxR @ (shrinkage_R * target_R)
        # leverage: the influence of a row on its own prediction
        leverage_N = np.minimum(np.square(u_NxR) @ shrinkage_R, 1 - 1e-6)
        errors.append(np.mean(np.square(residual_N / (1 - leverage_N))))
    penalty = RIDGE_PENALTIES[int(np.argmin(errors))]
    return v_RxF.T @ (s_R / (s_R**2 + penalty) * target_R)


# ----------------------------------------------------------------------------------- word choices


def _word_choices(scored: Sequence[ScoredRewrite], lexicon: Lexicon) -> dict[str, frozenset[str]]:
    """Return a user's word -> words of the same inflection that rewrites use instead."""
    rewrites = [
        (frozenset(words(s.prompt)), frozenset(words(s.refined)), s.prompt)
        for s in scored
        if s.refined != s.prompt
    ]
    counts = collections.Counter(word for _, refined, _ in rewrites for word in refined)
    choices: dict[str, frozenset[str]] = {}
    for user_word in sorted(frozenset().union(*(prompt for prompt, _, _ in rewrites))):
        if content(user_word) <= lexicon.roots:
            continue
        without = [row for row in rewrites if user_word in row[0] and user_word not in row[1]]
        if len({prompt for _, _, prompt in without}) < MIN_EVIDENCE:
            continue
        instead = collections.Counter(
            w for prompt_words, refined, _ in without for w in refined - prompt_words
        )
        num_others = max(len(rewrites) - len(without), 1)
        fitting = frozenset(
            word
            for word, count in instead.items()
            if _form(word) == _form(user_word)
            and not content(word) <= lexicon.roots
            and count >= max(MIN_SYNONYM_SHARE * len(without), MIN_EVIDENCE)
            and count / len(without) >= MIN_SYNONYM_LIFT * (counts[word] - count) / num_others
        )
        if fitting:
            choices[user_word] = fitting
    return choices


def _best_choices(
    choices: Mapping[str, frozenset[str]],
    effects: Mapping[str, float],
    counts: Mapping[str, int],
    bonus: float,
) -> dict[str, str]:
    """Return a user's word -> the best word for it, if that is a different word.

    Args:
      bonus: gain in overall of a word that is e times as common.
    """

    def value(word: str) -> float:
        feature = f"said:{word}"
        return effects.get(feature, 0.0) + bonus * float(np.log1p(counts[feature]))

    best = {word: max(sorted({word, *others}), key=value) for word, others in choices.items()}
    return {word: other for word, other in best.items() if other != word}


def _form(word: str) -> str:
    """Return the inflection of a word: the ending "ing", "ed" or "s"; empty for none."""
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            return ending
    return ""
