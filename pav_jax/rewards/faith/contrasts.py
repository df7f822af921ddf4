"""Words that exclude each other: a rewrite with one of them contradicts a prompt with another."""

from pav_jax.rewards.faith.items import Item
from pav_jax.rewards.faith.lexicon import Concept, Lexicon

# alternatives are separated by "|"; each is a list of words or concepts of the lexicon
_GROUPS = """
small, tiny, little | large, big, huge, giant, enormous
tall, high | short, low, tiny
old, elderly, ancient | young, new, baby, modern
happy, cheerful, smile, laugh | sad, cry, angry, weep
calm, quiet, peaceful, silent | noisy, loud, chaotic, busy, crowded, explosion, explode
open | close, shut
wet | dry
full, crowded, busy | empty, deserted
hot, burning | cold, frozen, icy
clean | dirty
bright | dark
fast, quick | slow
thick | thin
wide | narrow
wooden | metal | glass | plastic | stone | paper | leather
rise, ascend | fall, descend, sink, set
sit | run, fly, swim, dance, walk | sleep
push | pull
wake | sleep
day | night | dawn, sunrise, early morning | sunset, dusk | noon, midday
morning | evening | night | noon, midday, afternoon | midnight
sunrise | sunset
spring | summer, midsummer | autumn | winter
indoors | outdoors
sunny | rain, rainy
zoom in | zoom out
pan left | pan right
tilt up | tilt down
static, locked off | handheld, orbit shot, tracking shot, zoom in, zoom out, pan left, pan right
aerial | eye level, ground level, low angle
close up, macro | wide shot
low angle | high angle, aerial
slow motion | time lapse
front view | back view | side view
black and white | colourful, neon coloured, saturated
sepia | neon coloured
oil painting, painting, watercolour | photograph, photorealistic, documentary | 3d | pixel art
sketch | photograph, photorealistic | 3d | oil painting | watercolour
anime, cartoon, animated style | photorealistic, photograph, documentary
photograph, photorealistic | cartoon, anime, sketch, pixel art
claymation | photorealistic, realistic, documentary
"""


# what no picture is at once, although a text may say both: concept -> words of the other side
_EXCLUDED = {
    "night": ("noon", "midday"),
    "midnight": ("noon", "midday"),
    "rain": ("clear blue sky", "clear blue skies", "cloudless"),  # a clear sky may cloud over
    "noon": ("midnight",),
    "midday": ("midnight",),
}
NO_HUE = frozenset({"transparent", "colourful", "black and white"})


class Contrasts:
    """Which words exclude which, in the terms of a lexicon."""

    def __init__(self, lexicon: Lexicon):
        self._lexicon = lexicon
        self._opposite: dict[str, set[str]] = {}
        for line in _GROUPS.strip().splitlines():
            groups = [[self._key(word) for word in group.split(",")] for group in line.split("|")]
            for i, group in enumerate(groups):
                others = {word for j, other in enumerate(groups) if j != i for word in other}
                for word in group:
                    self._opposite.setdefault(word, set()).update(others)

    def opposites(self, names: frozenset[str], concepts: frozenset[Concept]) -> set[str]:
        """The words and concepts that names or concepts exclude."""
        opposites: set[str] = set()
        for name in (*names, *(name for _, name in concepts)):
            opposites |= self._opposite.get(name, set())
        return opposites

    def excluded(self, names: frozenset[str], concepts: frozenset[Concept]) -> set[str]:
        """The words that cannot hold of a picture together with names or concepts."""
        every = (*names, *(name for _, name in concepts))
        return {word for name in every for word in _EXCLUDED.get(name, ())}

    def are_opposed(self, first: Item, second: Item) -> bool:
        """Whether two attributes exclude each other: opposites, or other colours."""
        if first.category == second.category == "colour":
            if (first.names | second.names) & NO_HUE:
                return False
            return not first.names & second.names and not first.concepts & second.concepts
        if first.concepts & second.concepts:
            return False
        return bool(self.opposites(first.names, first.concepts) & second.names)

    def _key(self, phrase: str) -> str:
        return " ".join(self._lexicon.lemmatise(phrase))
