from pav_jax.errors import MAX_LINE, BadInput


def test_bad_input_long_value():
    message = str(BadInput(f"--out={'x' * 10_000}: too long; choose another path"))
    assert len(message) < MAX_LINE + 10
    assert message.startswith("--out=xxx") and message.endswith("; choose another path")
