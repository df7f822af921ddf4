"""Serves a tiny booster whose libraries quote every prompt; for `test_logs`.

usage: python -m tests.serve.quoting_server PORT_FILE
"""

import logging
import sys
import threading
import warnings
from pathlib import Path

import transformers

from pav_jax.booster.booster import Booster
from pav_jax.language.sampling import Sampling
from pav_jax.serve import engine
from pav_jax.serve.app import Server
from pav_jax.serve.local import LocalBackend
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.server import bind, serve
from tests.tiny.byte_language_model import TEMPLATE, tiny_language_model

RAISE = "{% if 'raise' in messages[0]['content'] %}{{ raise_exception(messages[0]['content']) }}"


class Unprintable:
    """Its finalizer fails."""

    def __init__(self, text):
        self.text = text

    def __del__(self):
        raise ValueError(self.text)


def fail(text):
    raise KeyError(text)


def quote(text):
    """Quote a text in every way in which a library may."""
    transformers.utils.logging.get_logger("transformers.models").warning(f"odd: {text}")
    warnings.warn(f"odd: {text}", stacklevel=1)
    logging.getLogger("tokenizers").error("odd: %s", text, extra={"prompt": text})
    logging.getLogger("library").error("odd: %d", text)  # the wrong type: the handler fails
    late = logging.getLogger("library.late")
    if not late.handlers:
        late.addHandler(logging.StreamHandler(sys.stdout))
    try:
        fail(text)
    except KeyError:
        late.exception("odd: %s", text)
    thread = threading.Thread(target=fail, args=(text,), name=text)
    thread.start()
    thread.join()
    Unprintable(text)


class QuotingTokenizer(transformers.PreTrainedTokenizerFast):
    """Quotes what it encodes."""

    def __call__(self, text, *arguments, **options):
        quote(text)
        if "explode" in text:
            raise RuntimeError(text)
        return super().__call__(text, *arguments, **options)


def exploding(add):
    """Have the engine fail on some prompts, with the prompt in its message."""

    def add_or_explode(batch, job):
        add(batch, job)
        if job.n == 3:
            raise RuntimeError(bytes(job.prompt_ids).decode())

    return add_or_explode


def main():
    lm = tiny_language_model()
    lm.tokenizer.__class__ = QuotingTokenizer
    lm.tokenizer.model_max_length = 64
    lm.tokenizer.chat_template = f"{RAISE}{{% endif %}}{TEMPLATE}"
    engine._OpenBatch.add = exploding(engine._OpenBatch.add)
    backend = LocalBackend(Booster(lm, Sampling(max_new_tokens=16)), "tiny")
    with bind("127.0.0.1", 0) as listener:
        Path(sys.argv[1]).write_text(str(listener.getsockname()[1]))
        serve(Server(backend, ServeLimits()), listener, lambda: None)


if __name__ == "__main__":
    main()
