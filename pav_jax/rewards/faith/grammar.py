"""Function words of English and of camera talk, for the reading of simple sentences."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this that these those some any its his her their our my your another each every both"
)
SINGULAR = _words("a an another each every one single lone lonely solitary")
NEGATIONS = _words("no not without never nobody none neither nor nothing n't cannot nowhere minus")
NOT_NEGATIONS = (("no", "longer"), ("not", "only"), ("not", "just"), ("no", "doubt"))
AUXILIARIES = _words(
    "is are was were be been being am has have had having do does did will would can could may"
    " might shall should must gets get got getting seems seem becomes become"
)
POSSESSION = _words("has have having had")
PASSIVE_AUXILIARIES = _words("is are was were be been being am gets get got getting")
PRONOUNS = _words(
    "he she it they him them i you we us who which that himself herself itself themselves"
)
RELATIVES = _words("who which that whose where")
CONJUNCTIONS = _words("and or but nor plus")
SUBORDINATORS = _words("while as when until because since though although whilst so then")
BREAKS = frozenset(".;!?:—–,()[]/")
SENTENCE_ENDS = frozenset(".;!?")
PREPOSITIONS = _words(
    "in on at by with from to of into onto over under beneath below underneath above behind beside"
    " besides inside outside within between among amid through across along around near past"
    " towards toward against about for during after before off up down beyond via like upon"
    " alongside opposite throughout atop amidst"
)
ADVERBS = _words(
    "very slowly quickly gently softly quietly just also still too only almost quite really then"
    " away back together apart forward forwards backward backwards here there now again alone"
    " overhead downstairs upstairs outdoors indoors"
)
# two objects or none: forms that the spelling does not show as verbs
IRREGULAR_VERBS = {
    form: base
    for base, forms in {
        "catch": "caught", "hold": "held", "feed": "fed", "throw": "threw thrown",
        "give": "gave given", "eat": "ate eaten", "drive": "drove driven", "ride": "rode ridden",
        "bite": "bit bitten", "lead": "led", "teach": "taught", "fight": "fought",
        "draw": "drew drawn", "take": "took taken", "see": "saw seen", "show": "showed shown",
        "hit": "hit", "sit": "sat", "stand": "stood", "run": "ran", "fly": "flew flown",
        "fall": "fell fallen", "swim": "swam swum", "sing": "sang sung", "write": "wrote written",
        "wear": "wore worn", "tell": "told", "bring": "brought", "hang": "hung", "lie": "lay lain",
        "sweep": "swept", "chase": "chased", "steal": "stole stolen", "hide": "hid hidden",
    }.items()
    for form in forms.split()
}  # fmt: skip
# single words of the number of things; "many" is any number above three
NUMBERS = {
    word: number
    for number, words in enumerate(
        (
            "zero", "one single lone solitary sole", "two pair couple both duo twin twins twosome",
            "three trio triple threesome", "four quartet", "five quintet", "six sextet", "seven",
            "eight", "nine", "ten", "eleven", "twelve dozen", "thirteen", "fourteen", "fifteen",
            "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
        )
    )
    for word in words.split()
}  # fmt: skip
NUMBERS |= {"thirty": 30, "forty": 40, "fifty": 50, "hundred": 100, "thousand": 1000}
MANY = 1.5  # a number that is not said: more than one
MANY_WORDS = _words(
    "several many numerous multiple countless various few some group crowd bunch herd flock pack"
    " number handful cluster array lots swarm hundreds thousands dozens scores"
)
# nouns that count what follows "of"
COUNTERS = _words("pair couple dozen trio quartet duo group crowd bunch herd flock pack number")
COUNTERS |= _words("handful cluster array lots swarm hundreds thousands dozens scores team row")

PHRASES = {
    "on top of": "on", "on the top of": "on", "at the top of": "on", "in front of": "before",
    "to the left of": "left", "on the left of": "left", "at the left of": "left", "left of": "left",
    "to the left side of": "left", "on the left side of": "left",
    "to the right of": "right", "on the right of": "right", "at the right of": "right",
    "right of": "right", "on the right side of": "right", "to the right side of": "right",
    "next to": "beside", "close to": "beside", "in back of": "behind", "inside of": "inside",
    "outside of": "outside", "in the middle of": "inside", "at the bottom of": "under",
    "on the bottom of": "under", "at the foot of": "beside", "in between": "between",
    "at the back of": "behind", "ahead of": "before", "out of": "out",
}  # fmt: skip
SIDES = {
    phrase: side
    for side in ("left", "right")
    for phrase in (
        f"on the {side}", f"at the {side}", f"to the {side}", f"on its {side}", f"to its {side}",
        f"on the {side} side", f"at its {side}", f"to their {side}", f"on the far {side}",
        f"to his {side}", f"to her {side}",
    )
}  # fmt: skip
SPATIAL = {
    "on": "on", "atop": "on", "upon": "on", "over": "on", "above": "on", "onto": "on",
    "under": "under", "beneath": "under", "below": "under", "underneath": "under",
    "before": "before", "behind": "behind", "left": "left", "right": "right",
    "inside": "inside", "in": "inside", "within": "inside", "into": "inside",
    "outside": "outside", "beside": "beside", "near": "beside", "by": "beside",
    "alongside": "beside", "between": "between", "beyond": "behind",
}  # fmt: skip
OPPOSITE = {
    "on": {"under"}, "under": {"on"}, "before": {"behind"}, "behind": {"before"},
    "left": {"right"}, "right": {"left"}, "inside": {"outside"}, "outside": {"inside"},
    "beside": set(), "between": {"behind", "under", "on", "before", "outside"},
}  # fmt: skip
ONE_WAY = frozenset({"on", "under", "before", "behind", "left", "right"})

# words that say that something is absent -> what
ABSENCE = {
    "clean shaven": "beard moustache", "cleanshaven": "beard moustache", "shaven": "beard",
    "beardless": "beard moustache", "barefoot": "shoe", "barefooted": "shoe", "bald": "hair",
    "bareheaded": "hat", "unarmed": "weapon", "deserted": "people person crowd",
    "nobody": "people person crowd", "no one": "people person crowd", "empty": "people person",
    "unoccupied": "people person", "uninhabited": "people person", "vacant": "people person",
    "abandoned": "people person", "silent": "sound noise", "bareback": "saddle",
    "unpeopled": "people person crowd", "clear sky": "cloud", "clear blue sky": "cloud",
    "clear skies": "cloud", "traffic free": "car traffic",
}  # fmt: skip
LESS = re.compile(r"\b([a-z]{3,15})less\b")
FREE = re.compile(
    r"\b(?:free of|free from|devoid of|empty of|clear of|bare of|lacking|lacks|absent of"
    r"|instead of|rather than|stripped of|bereft of)\b"
)
HYPHEN_FREE = re.compile(r"\b([a-z]{3,15})-free\b")
UN = re.compile(r"\bun([a-z]{4,15}(?:ed|ing))\b")
ORDINARY_LESS = _words(
    "time end count motion effort seam flaw price rest home breath care use help speech bound hope"
    " regard tire point sense fear weight point match worth limit change age life"
)
EXCLUSIVE = _words("alone lone single solitary sole lonely empty deserted quiet only abandoned")
