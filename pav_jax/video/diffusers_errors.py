"""What diffusers and its libraries raise for a checkpoint that they cannot load."""

from safetensors import SafetensorError

MAX_ERROR_LENGTH = 300  # characters of a library's message
# of a checkpoint that is incomplete or corrupt; OSError includes that of the Hub
LOADING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


def one_line(error: BaseException) -> str:
    """A library's message on one line of at most `MAX_ERROR_LENGTH` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 3] + "..."
