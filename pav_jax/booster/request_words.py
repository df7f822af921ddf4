"""The words around a scene that ask for it: "can you make me a video of a dog, please?"."""

import re

_POLITE = (
    r"(?:please|kindly|now|hey|hi|hello|(?:can|could|would|will) you|help (?:me|us)"
    r"|(?:i|we)(?: want| need|(?: would|['’]d) (?:like|love)) you to)"
)
_WISH = r"(?:i|we)(?: want| need| wish for| am looking for|(?: would|['’]d) (?:like|love))"
_SEE = r"(?: to (?:see|have|get|watch))?"
_ASK = r"(?:make|create|generate|produce|render|show|give)(?: me| us)?"
_VIDEO = (
    r"(?:(?:a|an|the|some|another|one) )?(?:(?:short|quick|little|new|nice|good|great|cool) )*"
    r"(?:video|clip|movie|footage)s?(?: clips?)?"
    r" (?:of|about|showing|that shows|where|in which|with)"
)
_THING = r"(?=(?:an?|the|some|my|this|two|three|four|five|\d+) )"  # of the scene itself
_WISHED = r"(?!(?:to|you|it|him|her|them|us|me|more|out|in|that|nothing|everything)\b)(?=\w)"
_FILM = (
    r"(?=an? (?:[\w-]+ ){0,4}(?:video|clip|shot|scene|animation|time-?lapse|close-?up|view|movie) )"
)
# a request names a video, a wish or who is asked; "make a cake" alone may be the scene
REQUEST = re.compile(
    rf"\W*(?:(?:{_POLITE},? )*"
    rf"(?:(?:{_WISH}(?: to (?:see|have|get|watch|make|create|generate))?|{_ASK}) {_VIDEO} (?=\w)"
    rf"|{_WISH}{_SEE} {_WISHED}"
    rf"|(?:make|give) {_FILM}"
    rf"|(?:create|generate|produce|render|show|(?:make|give)(?= (?:me|us)\b))(?: me| us)? {_THING})"
    rf"|(?:{_POLITE},? )+make {_THING})",
    re.IGNORECASE,
)
THANKS = re.compile(r"(?:,? (?:please|thanks|thank you|for me))+[.?!]?\Z", re.IGNORECASE)


def without_request(text: str) -> str:
    """Return the scene that a prompt asks for; the prompt itself where it asks in no such words.

    Args:
      text: the text of a prompt, on one line.
    """
    request = REQUEST.match(text)
    return THANKS.sub("", text[request.end() :].rstrip(" ?!"), count=1) if request else text
