"""User prompts and captions of scenes.

A user prompt is short and uses any synonym. The generator's training captions are long and use
fixed words (the first synonym 95 % of the time). There are eight caption styles; style 0 is the
generator's, the others imitate other captioners. No reward reads any of these texts except the
user's own prompt.
"""

from collections.abc import Callable, Mapping

import numpy as np

from pav_jax.mini import vocabulary as v
from pav_jax.mini import world
from pav_jax.mini.world import Scene

CANONICAL = 0.95  # share of caption words that are the concept's first synonym

ChooseWord = Callable[[tuple[str, ...]], str]  # chooses one of a concept's synonyms


def _word_chooser(rng: np.random.Generator, canonical: float, favourite: int = 0) -> ChooseWord:
    """Returns a function that chooses the synonym at index `favourite` with probability
    `canonical`, else one of the others."""

    def choose(words: tuple[str, ...]) -> str:
        if len(words) == 1 or rng.random() < canonical:
            return words[favourite]
        return words[(favourite + 1 + int(rng.integers(len(words) - 1))) % len(words)]

    return choose


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _choose_words(scene: Scene, choose: ChooseWord) -> dict[str, str]:
    """One word for each attribute of the scene; the motion also as a gerund."""
    concepts = {
        "subject": (v.SUBJECTS, world.SUBJECTS[scene.subject]),
        "colour": (v.COLOURS, world.COLOURS[scene.colour]),
        "size": (v.SIZES, world.SIZES[scene.size]),
        "material": (v.MATERIALS, world.MATERIALS[scene.material]),
        "background": (v.BACKGROUNDS, world.BACKGROUNDS[scene.background]),
        "camera": (v.CAMERAS, world.CAMERAS[scene.camera]),
    }
    words = {slot: choose(synonyms[name]) for slot, (synonyms, name) in concepts.items()}
    motion = world.MOTIONS[scene.motion]
    return words | {"motion": choose(v.MOTIONS[motion]), "gerund": choose(v.GERUNDS[motion])}


def user_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt of four to nine words with uniformly chosen synonyms: subject, colour and motion,
    sometimes the size or the background."""
    w = _choose_words(scene, lambda words: words[int(rng.integers(len(words)))])
    noun = f"{w['colour']} {w['subject']}"
    if rng.random() < 0.25 and len(f"{noun} {w['gerund']}".split()) < 5:
        noun = f"{w['size']} {noun}"
    forms = [
        f"{with_article(noun)} {w['motion']}",
        f"{with_article(noun)} {w['gerund']}",
        f"{with_article(noun)} is {w['gerund']}",
        f"video of {with_article(noun)} {w['gerund']}",
    ]
    forms = [form for form in forms if len(form.split()) <= 9]
    text = forms[int(rng.integers(len(forms)))]
    with_background = f"{text} {w['background']}"
    is_short = len(text.split()) < 4
    if is_short or (rng.random() < 0.35 and len(with_background.split()) <= 9):
        text = with_background
    return text


def _quality_clauses(
    scene: Scene,
    phrases: Mapping[str, tuple[str, ...]],
    rng: np.random.Generator,
    probability: float,
) -> list[str]:
    """The scene's quality clauses in random order, each included with this probability."""
    clauses = [phrases[q][level] for q, level in zip(world.QUALITIES, scene.quality, strict=True)]
    return [clauses[i] for i in rng.permutation(len(clauses)) if rng.random() < probability]


def caption(scene: Scene, rng: np.random.Generator, canonical: float = CANONICAL) -> str:
    """The generator's long caption, 35 to 60 tokens.

    Args:
      canonical: probability of a concept's first synonym.
    """
    w = _choose_words(scene, _word_chooser(rng, canonical))
    first = (
        f"{with_article(w['size'])} {w['material']} {w['colour']} {w['subject']} {w['motion']}"
        f" {w['background']}"
    )
    clauses = _quality_clauses(scene, v.QUALITIES, rng, 0.95)
    return f"a short video of {first}. {w['camera']}, {', '.join(clauses)}."


def _tags(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    tags = [
        w["subject"],
        w["colour"],
        w["size"],
        w["material"],
        w["gerund"],
        w["background"],
        w["camera"],
    ]
    return ", ".join([*tags, *_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9)])


def _form(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    body = (
        f"subject: {w['colour']} {w['subject']}; look: {w['size']} and {w['material']}; action:"
        f" {w['gerund']}; place: {w['background']}; view: {w['camera']}; notes:"
    )
    return " ".join([body, " / ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))])


def _story(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    end = " and ".join(_quality_clauses(scene, v.QUALITIES, rng, 0.9))
    return (
        f"once upon a time there was {with_article(w['colour'])} {w['subject']}, so {w['size']} and"
        f" {w['material']}, which one fine day {w['motion']} {w['background']} while {end}."
    )


def _poem(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    end = ", oh, ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"behold {w['background']}, my dear, how {w['gerund']} the {w['subject']} goes,"
        f" {w['colour']} as a dream, {w['material']} and {w['size']}, {end}!"
    )


def _script(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    end = "; ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"scene one, {w['background']}. enter {with_article(w['size'])} {w['subject']},"
        f" {w['colour']}, {w['material']}. it {w['motion']}. {w['camera']}. director asks for"
        f" {end}. cut."
    )


def _witness(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    end = " and i think ".join(_quality_clauses(scene, v.QUALITIES, rng, 0.9))
    return (
        f"i was standing there and i saw {with_article(w['colour'])} {w['subject']}, really"
        f" {w['size']}, kind of {w['material']}, {w['gerund']} {w['background']}, i think {end}"
    )


def _review(scene: Scene, rng: np.random.Generator, choose: ChooseWord) -> str:
    w = _choose_words(scene, choose)
    end = ", also ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"an award winning masterpiece showing {w['subject']} in {w['colour']}, {w['material']}"
        f" finish, {w['size']} scale, {w['gerund']} {w['background']}, critics praise {end}."
    )


def tag_caption(scene: Scene, rng: np.random.Generator, canonical: float = CANONICAL) -> str:
    """The second generator's long caption: tags (style 1), mostly the second synonym of each
    concept.

    Args:
      canonical: probability of a concept's second synonym.
    """
    return _tags(scene, rng, _word_chooser(rng, canonical, favourite=1))


_OTHER_STYLES = (_tags, _form, _story, _poem, _script, _witness, _review)
NUM_STYLES = 1 + len(_OTHER_STYLES)


def styled_caption(
    scene: Scene, style: int, rng: np.random.Generator, canonical: float = 0.5
) -> str:
    """A long caption in one of the NUM_STYLES styles.

    Args:
      style: 0 is the generator's own.
      canonical: probability of a concept's first synonym.
    """
    if style == 0:
        return caption(scene, rng, canonical)
    return _OTHER_STYLES[style - 1](scene, rng, _word_chooser(rng, canonical))
