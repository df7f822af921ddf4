import xml.etree.ElementTree

from pav_jax.report import plots


def make_plots():
    yield plots.gains(
        {"base": (0.1, -0.1, 0.3), "<b>&$x$": (0.5, 0.4, 0.6), "unscored": (None, None, None)},
        "gain & more",
    )
    for rewards in (
        ["AES"],
        ["AES", "TVA", "FAITH"],
        ["VQ", "TC", "DD", "TVA", "FC", "AES", "MPS", "FAITH"],
    ):
        base = {reward: (0.1, 0.0, 0.2) for reward in rewards}
        yield plots.reward_gains({"base": base, "sft": {rewards[0]: [None] * 3}}, rewards)
    series = {"loss": ([1, 2, 3], [3.0, 2.0, 1.0], plots.SFT)}
    yield plots.lines(series, "step", "loss", integer_x=True)
    yield plots.lines({"one point": ([1], [3.0], plots.SFT)}, "step", "loss")


def test_plots_are_valid_svg():
    for svg in make_plots():
        xml.etree.ElementTree.fromstring(svg)
        assert "<style" not in svg
        assert "<b>" not in svg
        assert "<?xml" not in svg


def test_plots_use_css_variables():
    for svg in make_plots():
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert not any(placeholder in svg for placeholder in plots.CSS_VARIABLES)


def test_gains_names():
    svg = next(make_plots())
    assert "&lt;b&gt;&amp;$x$" in svg
    assert "unscored" not in svg


def test_plots_are_deterministic():
    assert list(make_plots()) == list(make_plots())
