"""The intent guard: of several rewrites the one that keeps what the user asked for, or the prompt.

It works with anything that answers prompts with texts. Flags, quoted texts and the other protected
parts of `prompt_syntax` come back as they were typed; FAITH compares the sentences.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from pav_jax.booster import invented_text, prompt_kinds
from pav_jax.booster.prompt_syntax import (
    ParsedPrompt,
    has_term,
    own_term,
    parse_prompt,
    unknown_term,
)
from pav_jax.booster.repair import restore_case, say_again, without_faults
from pav_jax.booster.replies import is_copy, read_reply, read_scene, without_controls
from pav_jax.booster.request_words import without_request
from pav_jax.errors import BadInput
from pav_jax.records import Refinement
from pav_jax.rewards.faith.checks import KEPT
from pav_jax.rewards.faith.grammar import NUMBERS
from pav_jax.rewards.faith.judge import JudgedUnit
from pav_jax.rewards.faithfulness import Judgement, judge

OFF, AUTO, ON = MODES = ("off", "auto", "on")
LANGUAGES = (prompt_kinds.ENGLISH, prompt_kinds.ANY_LANGUAGE)
ESSENTIAL = frozenset({"negation", "quote"})  # kinds of units that no rewrite may lose
REPAIRABLE = 0.6  # FAITH from which a rewrite is of the same scene
UNCHECKED = "not checked: the prompt is not in English; only its literal terms were compared"
MIN_WORDS = 3
MAX_PROBLEMS = 2  # named in a reason
MAX_NAMED = 5  # units named in a problem


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt to rewrite.

    Attributes:
      prompt: what the user typed; for an engine, without flags and marks.
      seed: the same prompt and seed give the same samples.
      adapter: the name of the adapter to use; None for none.
    """

    prompt: str
    seed: int = 0
    adapter: str | None = None


# (requests, samples of each) -> the samples of each request
Engine = Callable[[Sequence[Request], int], Sequence[Sequence[str]]]
# (request, texts) -> log-probability per token of each text as an answer to the request
Likelihood = Callable[[Request, Sequence[str]], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a rewrite must keep.

    Attributes:
      mode: "off" takes the rewrite as it comes; "on" guards every prompt; "auto" also leaves alone
        a prompt that is long or structured already.
      keep: literal terms that a rewrite must contain where the prompt does, beside those that
        `prompt_syntax` finds; a string is one term. `Booster.refine` refuses one that no prompt
        has.
      fidelity: the least FAITH of a rewrite, from 0 to 1.
      max_words: of a rewrite; None: no limit.
      language: of rewrites. "en": English, and a prompt in another language is unchanged, because
        no rewrite of it can be checked; "any": rewrites of one are checked for terms only.
      samples: drawn for each rewrite; the most faithful is taken.

    Raises:
      BadInput: a value is out of range or of another type.
    """

    mode: str = AUTO
    keep: tuple[str, ...] = ()
    fidelity: float = 0.9
    max_words: int | None = None
    language: str = prompt_kinds.ENGLISH
    samples: int = 4

    def __post_init__(self):
        terms = (self.keep,) if isinstance(self.keep, str) else self.keep
        is_list = isinstance(terms, Iterable) and not isinstance(terms, bytes | Mapping)
        terms = tuple(terms) if is_list else (terms,)
        are_texts = all(isinstance(term, str) and term.strip() for term in terms)
        _check("keep", self.keep, are_texts, "must be texts that are not empty")
        object.__setattr__(self, "keep", terms)
        _check("mode", self.mode, self.mode in MODES, f"choose one of {', '.join(MODES)}")
        choices = f"choose one of {', '.join(LANGUAGES)}"
        _check("language", self.language, self.language in LANGUAGES, choices)
        is_share = _is_number(self.fidelity, Real) and 0 <= self.fidelity <= 1
        _check("fidelity", self.fidelity, is_share, "must be a number from 0 to 1")
        is_count = _is_number(self.samples, Integral) and self.samples >= 1
        _check("samples", self.samples, is_count, "must be a whole number, 1 or more")
        words = MIN_WORDS if self.max_words is None else self.max_words
        is_enough = _is_number(words, Integral) and words >= MIN_WORDS
        _check("max_words", words, is_enough, f"must be a whole number, {MIN_WORDS} or more")

    @classmethod
    def from_config(cls, config: Any) -> "Guard":
        """Return the guard of a whole configuration, `booster.guard`; off where it has none."""
        section = getattr(config, "booster", None)
        return cls(OFF) if section is None else cls(**section.guard)

    def with_fields(self, fields: Mapping[str, Any]) -> "Guard":
        """Return the guard with some other fields; None leaves a field as it is.

        Raises:
          BadInput: there is no such field, or its value is wrong.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in fields:
            _check(name, fields[name], name in names, f"no field of a guard: {', '.join(names)}")
        changes = {name: value for name, value in fields.items() if value is not None}
        return dataclasses.replace(self, **changes)

    def check_terms(self, prompts: Iterable[str]) -> None:
        """Refuse a term to keep that none of the prompts has.

        Raises:
          BadInput: names the term.
        """
        if term := unknown_term(self.keep, prompts):
            raise BadInput(
                f"keep={term!r}: no prompt contains it; write it as the prompt does", field="keep"
            )

    def faithful(self, prompt: str, replies: Sequence[str]) -> list[str]:
        """Return the replies of a model that keep what a prompt asks for.

        They are read as in `refine`, and repaired where that helps. Of a prompt that stands there
        are none; with mode "off", all replies as they are.
        """
        if self.mode == OFF:
            return list(replies)
        guarded = GuardedPrompt(Request(prompt), dataclasses.replace(self, samples=1), "")
        if guarded.reason:
            return []
        rewrites = guarded.choose(replies, None)
        return [rewrite.refined for rewrite in rewrites if not rewrite.reverted]

    def refine(
        self,
        requests: Sequence[Request],
        engine: Engine,
        num_return_sequences: int = 1,
        model: str = "",
        likelihood: Likelihood | None = None,
    ) -> list[list[Refinement]]:
        """Rewrite prompts.

        Args:
          requests: the prompts as the users typed them.
          engine: draws the samples.
          num_return_sequences: rewrites of each prompt.
          model: the name of what draws the samples.
          likelihood: decides between equally faithful rewrites; None: the first one is taken.

        Returns:
          One list of `num_return_sequences` rewrites per prompt.
        """
        if self.mode == OFF:
            replies = engine(requests, num_return_sequences)
            return [
                [_unguarded(request, reply, model) for reply in texts]
                for request, texts in zip(requests, replies, strict=True)
            ]
        guarded = [GuardedPrompt(request, self, model) for request in requests]
        drawn = [prompt for prompt in guarded if not prompt.reason]
        num_samples = num_return_sequences * self.samples
        replies = engine([prompt.stripped for prompt in drawn], num_samples) if drawn else []
        chosen = {
            id(prompt): prompt.choose(texts, likelihood)
            for prompt, texts in zip(drawn, replies, strict=True)
        }
        return [
            chosen.get(id(prompt)) or [prompt.unchanged()] * num_return_sequences
            for prompt in guarded
        ]


def _unguarded(request: Request, reply: str, model: str) -> Refinement:
    refined = read_reply(reply) or without_controls(request.prompt).strip()
    return Refinement(request.prompt, refined, request.seed, model, request.adapter)


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A sample that was read as a scene, and what it keeps."""

    text: str
    judgement: Judgement
    lost_terms: tuple[str, ...]

    @property
    def faith(self) -> float:
        """FAITH; 1 where the texts cannot be compared."""
        score = self.judgement.score
        return 1.0 if math.isnan(score) else score

    @property
    def loss(self) -> tuple[float, int, int]:
        """The smallest is the most faithful."""
        return -self.faith, len(self.lost_terms), len(self.judgement.added)

    def lost_units(self) -> list[str]:
        """Units that it lost and that no rewrite may lose."""
        units = self.judgement.units
        return [unit.text for unit in units if unit.verdict != KEPT and _is_essential(unit)]


class GuardedPrompt:
    """One prompt with its protected parts."""

    def __init__(self, request: Request, guard: Guard, model: str):
        self.request = request
        self.guard = guard
        self.model = model
        self.parsed: ParsedPrompt = parse_prompt(request.prompt)
        self.text = self.parsed.text
        own = (own_term(term, self.parsed) for term in guard.keep)
        self.terms = tuple(dict.fromkeys([*self.parsed.terms, *filter(None, own)]))
        scene = without_request(self.text)
        # what a rewrite must keep; the whole text where the words of the request have a term
        self.scene = scene if all(has_term(scene, term) for term in self.terms) else self.text
        self.unfit = prompt_kinds.unfit_reason(self.parsed, guard.language)
        self.finished = prompt_kinds.finished_reason(self.parsed) if guard.mode == AUTO else ""

    @property
    def reason(self) -> str:
        """Why the prompt stands and no samples are drawn; "" if they are."""
        return self.finished or self.unfit

    @property
    def stripped(self) -> Request:
        """What the model is asked to rewrite: the text, and the user's extra instruction."""
        instruction = " ".join(self.parsed.instruction.split())
        text = f"{self.scene} ({instruction})" if instruction else self.scene
        return dataclasses.replace(self.request, prompt=text)

    def choose(self, replies: Sequence[str], likelihood: Likelihood | None) -> list[Refinement]:
        """The best of each group of `Guard.samples` replies."""
        size = self.guard.samples
        groups = [replies[i : i + size] for i in range(0, len(replies), size)]
        return [self._choose(group, likelihood) for group in groups]

    def unchanged(self, reason: str = "") -> Refinement:
        """The user's prompt, because of the prompt itself or for a reason."""
        reverted = bool(reason) or not self.finished
        judgement = judge(self.scene, self.scene)
        typed = self.request.prompt
        return self._record(typed, self.text, judgement, reason or self.reason, reverted)

    def _choose(self, replies: Sequence[str], likelihood: Likelihood | None) -> Refinement:
        problems: Counter[str] = Counter()
        rewrites = list(self._read(replies, problems))
        ordered = sorted(rewrites, key=lambda rewrite: rewrite.loss)
        faults = [self._problem(rewrite) for rewrite in ordered]
        sound = [rewrite for rewrite, fault in zip(ordered, faults, strict=True) if not fault]
        # a copy of the prompt is perfectly faithful, and of no use
        sound = [r for r in sound if not is_copy(r.text, self.scene)] or sound
        best = next(iter(self._likely_first(sound, likelihood)), None)
        if best is None:
            repaired = map(self._repair, self._likely_first(ordered, likelihood))
            best = next(filter(None, repaired), None)
        if best is not None:
            refined = self.parsed.render(best.text)
            return self._record(refined, best.text, best.judgement, "", False)
        problems.update(faults)
        details = "; ".join(problem for problem, _ in problems.most_common(MAX_PROBLEMS))
        return self.unchanged(f"no rewrite was good enough: {details}")

    def _read(self, replies: Sequence[str], problems: Counter[str]) -> Iterator[Rewrite]:
        for reply in replies:
            scene = read_scene(reply, self.scene, self.guard.max_words)
            text = invented_text.without_invented(scene.text, self.request.prompt)
            if problem := scene.problem or ("" if text else invented_text.PROBLEM):
                problems[problem] += 1
                continue
            rewrite = self._judge(restore_case(text, self.terms))
            if self._is_unread(rewrite):
                problems["another language"] += 1
            else:
                yield rewrite

    def _judge(self, text: str) -> Rewrite:
        return Rewrite(text, judge(self.scene, text), self.parsed.missing_terms(text, self.terms))

    def _is_unread(self, rewrite: Rewrite) -> bool:
        """Whether FAITH can read the prompt but not the rewrite."""
        is_unread = math.isnan(rewrite.judgement.score)
        return is_unread and not math.isnan(judge(self.scene, self.scene).score)

    def _likely_first(self, ordered: list[Rewrite], likelihood: Likelihood | None) -> list[Rewrite]:
        """Rewrites from the most faithful one on, of equal ones the most likely one first."""
        equal = [rewrite for rewrite in ordered if rewrite.loss == ordered[0].loss]
        if likelihood is None or len(equal) < 2:
            return ordered
        values = likelihood(self.stripped, [rewrite.text for rewrite in equal])
        likely = sorted(range(len(equal)), key=lambda i: -values[i])
        return [equal[i] for i in likely] + ordered[len(equal) :]

    def _repair(self, rewrite: Rewrite) -> Rewrite | None:
        """A rewrite of the same scene with what it lost and without its other faults, or None."""
        if rewrite.judgement.contradicted or rewrite.judgement.added:
            rewrite = self._judge(without_faults(rewrite.text, self.scene))
        judgement = rewrite.judgement
        if rewrite.faith < REPAIRABLE or judgement.contradicted or judgement.added:
            return None
        units = rewrite.lost_units()
        if rewrite.faith < self.guard.fidelity:
            units += judgement.missing
        repaired = self._judge(say_again(rewrite.text, self.scene, units, rewrite.lost_terms))
        return None if self._is_unread(repaired) or self._problem(repaired) else repaired

    def _problem(self, rewrite: Rewrite) -> str:
        """Why a rewrite does not keep enough; "" if it does."""
        if rewrite.lost_terms:
            return f"without {_quoted(rewrite.lost_terms)}"
        if lost := rewrite.lost_units():
            return f"without {_quoted(lost)}"
        if rewrite.faith < self.guard.fidelity:
            judgement = rewrite.judgement
            lost = [*judgement.contradicted, *judgement.missing]
            return f"unfaithful in {_quoted(lost)}" if lost else "unfaithful"
        limit = self.guard.max_words
        return f"over {limit} words" if limit and len(rewrite.text.split()) > limit else ""

    def _record(
        self, refined: str, text: str, judgement: Judgement, reason: str, reverted: bool
    ) -> Refinement:
        parsed = self.parsed
        return Refinement(
            self.request.prompt,
            refined,
            self.request.seed,
            self.model,
            self.request.adapter,
            kept=judgement.kept,  # vocabulary: ignore
            missing=judgement.missing,
            contradicted=judgement.contradicted,
            added=judgement.added,
            faith=judgement.score,
            reverted=reverted,
            reason=reason,
            negative_prompt=parsed.negative_prompt,
            settings=dict(parsed.settings),
            text=text,
            note=None if reason or not math.isnan(judgement.score) else UNCHECKED,
        )


def _is_essential(unit: JudgedUnit) -> bool:
    """Whether no rewrite may lose a unit: negations, quoted texts, and numbers, but not "many"."""
    if unit.category == "count":
        return any(word.isdigit() or word in NUMBERS for word in unit.text.split())
    return unit.category in ESSENTIAL


def _quoted(texts: Sequence[str]) -> str:
    unique = [repr(text) for text in dict.fromkeys(texts)]
    more = [f"{len(unique) - MAX_NAMED} more"] if len(unique) > MAX_NAMED else []
    return ", ".join([*unique[:MAX_NAMED], *more])


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check(field: str, value: object, is_valid: bool, fix: str) -> None:
    if not is_valid:
        raise BadInput(f"{field}={value!r}: {fix}", field=field)
