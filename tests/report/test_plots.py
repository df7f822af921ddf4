import xml.etree.ElementTree

from pav_jax.report import plots


def drawings():
    yield plots.gains(
        {"base": (0.1, -0.1, 0.3), "<b>&$x$": (0.5, 0.4, 0.6), "lost": (None, None, None)},
        "gain & more",
    )
    for rewards in (
        ["AES"],
        ["AES", "TVA", "FAITH"],
        ["VQ", "TC", "DD", "TVA", "FC", "AES", "MPS", "FAITH"],
    ):
        base = {reward: (0.1, 0.0, 0.2) for reward in rewards}
        yield plots.reward_gains({"base": base, "sft": {rewards[0]: [None] * 3}}, rewards)
    yield plots.lines(
        {"loss": ([1, 2, 3], [3.0, 2.0, 1.0], plots.SFT)}, "step", "loss", whole_steps=True
    )
    yield plots.lines({"one point": ([1], [3.0], plots.SFT)}, "step", "loss")


def test_drawings_are_well_formed_and_follow_the_pages_colours():
    for svg in drawings():
        xml.etree.ElementTree.fromstring(svg)
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert not any(stand_in in svg for stand_in in plots.STAND_INS)
        assert "<style" not in svg and "<b>" not in svg and "<?xml" not in svg


def test_names_are_shown_as_they_are():
    svg = next(drawings())
    assert "&lt;b&gt;&amp;$x$" in svg and "lost" not in svg


def test_drawings_are_the_same_every_time():
    assert list(drawings()) == list(drawings())
