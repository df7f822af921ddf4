"""What people and captioners say about a scene.

`user_prompt` is short and free with synonyms. `caption` is the generator's training caption: long,
in fixed words (the first synonym 95 % of the time). `dialect` gives eight long forms; number 0 is
the generator's, the others are how other captioners talk. No text here is ever read by a reward,
except the user's own prompt.
"""

from collections.abc import Callable

import numpy as np

from pav_jax.mini import vocabulary as v
from pav_jax.mini import world
from pav_jax.mini.world import Scene

CANONICAL = 0.95  # share of caption words that are the concept's first synonym

Pick = Callable[[tuple[str, ...]], str]


def _picker(rng: np.random.Generator, canonical: float, favourite: int = 0) -> Pick:
    """Chooses a synonym: the one at `favourite` with probability `canonical`, else one of the
    others."""

    def pick(words: tuple[str, ...]) -> str:
        if len(words) == 1 or rng.random() < canonical:
            return words[favourite]
        return words[(favourite + 1 + int(rng.integers(len(words) - 1))) % len(words)]

    return pick


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _words(scene: Scene, pick: Pick) -> dict[str, str]:
    names = {
        "subject": (v.SUBJECTS, world.SUBJECTS[scene.subject]),
        "colour": (v.COLOURS, world.COLOURS[scene.colour]),
        "size": (v.SIZES, world.SIZES[scene.size]),
        "material": (v.MATERIALS, world.MATERIALS[scene.material]),
        "background": (v.BACKGROUNDS, world.BACKGROUNDS[scene.background]),
        "camera": (v.CAMERAS, world.CAMERAS[scene.camera]),
    }
    words = {slot: pick(table[name]) for slot, (table, name) in names.items()}
    motion = world.MOTIONS[scene.motion]
    return words | {"motion": pick(v.MOTIONS[motion]), "gerund": pick(v.GERUNDS[motion])}


def user_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """Four to nine words, synonyms uniform: subject, colour and motion, now and then the size or
    the place."""
    w = _words(scene, lambda words: words[int(rng.integers(len(words)))])
    noun = f"{w['colour']} {w['subject']}"
    if rng.random() < 0.25 and len(f"{noun} {w['gerund']}".split()) < 5:
        noun = f"{w['size']} {noun}"
    forms = [
        f"{_article(noun)} {w['motion']}",
        f"{_article(noun)} {w['gerund']}",
        f"{_article(noun)} is {w['gerund']}",
        f"video of {_article(noun)} {w['gerund']}",
    ]
    forms = [form for form in forms if len(form.split()) <= 9]
    text = forms[int(rng.integers(len(forms)))]
    placed = f"{text} {w['background']}"
    if len(text.split()) < 4 or (rng.random() < 0.35 and len(placed.split()) <= 9):
        text = placed
    return text


def _quality_clauses(scene: Scene, table: dict, rng: np.random.Generator, keep: float) -> list[str]:
    """The scene's quality clauses in random order, each said with probability `keep`."""
    clauses = [table[q][level] for q, level in zip(world.QUALITIES, scene.quality, strict=True)]
    return [clauses[i] for i in rng.permutation(len(clauses)) if rng.random() < keep]


def caption(scene: Scene, rng: np.random.Generator, canonical: float = CANONICAL) -> str:
    """The generator's long caption, 35 to 60 tokens."""
    w = _words(scene, _picker(rng, canonical))
    first = (
        f"{_article(w['size'])} {w['material']} {w['colour']} {w['subject']} {w['motion']}"
        f" {w['background']}"
    )
    clauses = _quality_clauses(scene, v.QUALITIES, rng, keep=0.95)
    return f"a short video of {first}. {w['camera']}, {', '.join(clauses)}."


def _tags(scene, rng, pick):
    w = _words(scene, pick)
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


def _slots(scene, rng, pick):
    w = _words(scene, pick)
    body = (
        f"subject: {w['colour']} {w['subject']}; look: {w['size']} and {w['material']}; action:"
        f" {w['gerund']}; place: {w['background']}; view: {w['camera']}; notes:"
    )
    return " ".join([body, " / ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))])


def _story(scene, rng, pick):
    w = _words(scene, pick)
    end = " and ".join(_quality_clauses(scene, v.QUALITIES, rng, 0.9))
    return (
        f"once upon a time there was {_article(w['colour'])} {w['subject']}, so {w['size']} and"
        f" {w['material']}, which one fine day {w['motion']} {w['background']} while {end}."
    )


def _poem(scene, rng, pick):
    w = _words(scene, pick)
    end = ", oh, ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"behold {w['background']}, my dear, how {w['gerund']} the {w['subject']} goes,"
        f" {w['colour']} as a dream, {w['material']} and {w['size']}, {end}!"
    )


def _script(scene, rng, pick):
    w = _words(scene, pick)
    end = "; ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"scene one, {w['background']}. enter {_article(w['size'])} {w['subject']}, {w['colour']},"
        f" {w['material']}. it {w['motion']}. {w['camera']}. director asks for {end}. cut."
    )


def _witness(scene, rng, pick):
    w = _words(scene, pick)
    end = " and i think ".join(_quality_clauses(scene, v.QUALITIES, rng, 0.9))
    return (
        f"i was standing there and i saw {_article(w['colour'])} {w['subject']}, really"
        f" {w['size']}, kind of {w['material']}, {w['gerund']} {w['background']}, i think {end}"
    )


def _review(scene, rng, pick):
    w = _words(scene, pick)
    end = ", also ".join(_quality_clauses(scene, v.QUALITY_TAGS, rng, 0.9))
    return (
        f"an award winning masterpiece showing {w['subject']} in {w['colour']}, {w['material']}"
        f" finish, {w['size']} scale, {w['gerund']} {w['background']}, critics praise {end}."
    )


def tag_caption(scene: Scene, rng: np.random.Generator, canonical: float = CANONICAL) -> str:
    """The second generator's long caption: the tags of dialect 1, mostly in the second synonym of
    each concept."""
    return _tags(scene, rng, _picker(rng, canonical, favourite=1))


_OTHERS = (_tags, _slots, _story, _poem, _script, _witness, _review)
DIALECTS = 1 + len(_OTHERS)


def dialect(scene: Scene, number: int, rng: np.random.Generator, canonical: float = 0.5) -> str:
    """The scene in dialect `number`; 0 is the generator's own."""
    if number == 0:
        return caption(scene, rng, canonical)
    return _OTHERS[number - 1](scene, rng, _picker(rng, canonical))
