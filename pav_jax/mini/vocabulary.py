"""The words of the mini world. The first word of each concept is the one that captions use; user
prompts and other caption styles use all of its synonyms."""

SUBJECTS = {
    "ball": ("ball", "sphere", "orb"),
    "box": ("box", "cube", "crate"),
    "star": ("star", "pentagram"),
    "heart": ("heart", "love heart"),
    "ring": ("ring", "hoop", "circlet"),
    "triangle": ("triangle", "pyramid", "wedge"),
    "moon": ("moon", "crescent"),
    "cross": ("cross", "plus sign"),
}
COLOURS = {
    "red": ("red", "crimson", "scarlet"),
    "blue": ("blue", "azure", "cobalt"),
    "green": ("green", "emerald", "jade"),
    "yellow": ("yellow", "lemon", "golden"),
    "purple": ("purple", "violet", "plum"),
    "orange": ("orange", "tangerine", "amber"),
    "white": ("white", "ivory", "snowy"),
    "pink": ("pink", "rosy", "salmon"),
}
SIZES = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium", "average", "moderate"),
    "large": ("large", "huge", "giant"),
}
MATERIALS = {
    "matte": ("matte", "dull", "flat"),
    "glossy": ("glossy", "shiny", "polished"),
    "striped": ("striped", "banded", "lined"),
}
MOTIONS = {  # third person, caption form first
    "right": ("slides to the right", "glides rightward", "drifts rightward"),
    "left": ("slides to the left", "glides leftward", "drifts leftward"),
    "rise": ("rises", "climbs", "ascends"),
    "fall": ("falls", "drops", "descends"),
    "bounce": ("bounces", "hops", "jumps"),
    "grow": ("grows", "expands", "swells"),
    "shrink": ("shrinks", "contracts", "dwindles"),
}
GERUNDS = {  # the same motions, as user prompts often put them
    "right": ("sliding to the right", "gliding rightward", "drifting rightward"),
    "left": ("sliding to the left", "gliding leftward", "drifting leftward"),
    "rise": ("rising", "climbing", "ascending"),
    "fall": ("falling", "dropping", "descending"),
    "bounce": ("bouncing", "hopping", "jumping"),
    "grow": ("growing", "expanding", "swelling"),
    "shrink": ("shrinking", "contracting", "dwindling"),
}
BACKGROUNDS = {
    "meadow": ("over a meadow", "over a grassland", "over a pasture"),
    "sea": ("over the sea", "over the ocean", "over the waves"),
    "desert": ("over a desert", "over the dunes", "over the sand"),
    "night sky": ("in the night sky", "in the starry sky", "in the midnight sky"),
    "brick wall": ("before a brick wall", "before a masonry wall", "before a stone wall"),
    "studio": ("in a studio", "in a showroom", "in a workshop"),
}
CAMERAS = {
    "still": ("the camera stays still", "the camera is fixed", "the camera does not move"),
    "pan": ("the camera pans", "the camera sweeps sideways", "the camera travels sideways"),
    "zoom": ("the camera zooms in", "the camera moves closer", "the camera pushes in"),
}
# Five qualities, each (poor, medium, good), in the words of the generator's captions.
QUALITIES = {
    "light": ("the light is dim", "the light is ordinary", "the light is bright"),
    "contrast": ("the contrast is faded", "the contrast is moderate", "the contrast is vivid"),
    "grain": ("the film is grainy", "the film is slightly grainy", "the film is clean"),
    "focus": ("the focus is blurry", "the focus is soft", "the focus is sharp"),
    "steadiness": ("the shot is shaky", "the shot is handheld", "the shot is steady"),
}
# The same five in the words of the tag styles.
QUALITY_TAGS = {
    "light": ("underexposed", "normal exposure", "brilliant exposure"),
    "contrast": ("washed out", "natural tones", "rich tones"),
    "grain": ("noisy footage", "some noise", "noiseless footage"),
    "focus": ("out of focus", "gentle detail", "crisp detail"),
    "steadiness": ("wobbly framing", "loose framing", "stable framing"),
}
