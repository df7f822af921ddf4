"""Reads a scene back from a text, by the vocabulary alone; where two phrases overlap the longer one
is meant."""

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
    """(phrase, number of its concept, place among the concept's synonyms), longer phrases first."""
    rows = [
        (p, c, s)
        for c, synonyms in enumerate(TABLES[slot].values())
        for s, p in enumerate(synonyms)
    ]
    return sorted(rows, key=lambda row: -len(row[0]))


def said(text: str, slot: str) -> tuple[int, int] | None:
    """(concept, synonym) of the slot that `text` names, or None."""
    for phrase, concept, synonym in phrases(slot):
        if f" {phrase} " in f" {text} ":
            return concept, synonym
    return None


def triple(text: str) -> tuple[int, int, int]:
    """(subject, colour, motion) that a user's prompt or a caption's first sentence is about."""
    return (
        said(text, "subject")[0],
        said(text, "colour")[0],
        (said(text, "motion") or said(text, "gerund"))[0],
    )
