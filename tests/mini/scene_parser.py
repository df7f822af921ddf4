"""Parses the attributes of a scene from a text, with the vocabulary alone. Of overlapping phrases
the longer one counts."""

from pav_jax.mini import vocabulary as v

TABLES = {
    "subject": v.SUBJECTS,
    "colour": v.COLOURS,
    "size": v.SIZES,
    "material": v.MATERIALS,
    "background": v.BACKGROUNDS,
    "camera": v.CAMERAS,
    "motion": v.MOTIONS,
    "gerund": v.GERUNDS,
}


def phrases(slot: str) -> list[tuple[str, int, int]]:
    """(phrase, index of its concept, index among the concept's synonyms), longer phrases first."""
    rows = [
        (p, c, s)
        for c, synonyms in enumerate(TABLES[slot].values())
        for s, p in enumerate(synonyms)
    ]
    return sorted(rows, key=lambda row: -len(row[0]))


def parse(text: str, slot: str) -> tuple[int, int] | None:
    """(concept, synonym) that `text` names in a slot, or None."""
    for phrase, concept, synonym in phrases(slot):
        if f" {phrase} " in f" {text} ":
            return concept, synonym
    return None


def parse_triple(text: str) -> tuple[int, int, int]:
    """(subject, colour, motion) of a user prompt or of the first sentence of a caption."""
    return (
        parse(text, "subject")[0],
        parse(text, "colour")[0],
        (parse(text, "motion") or parse(text, "gerund"))[0],
    )
