"""The language model of this package's tests."""

import pytest

from pav_jax.language.language_model import LanguageModel
from tests.tiny.byte_language_model import tiny_language_model


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return tiny_language_model()
