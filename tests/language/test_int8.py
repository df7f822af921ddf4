"""Language models with 8-bit kernels."""

import dataclasses

import numpy as np
import pytest

from pav_jax.booster.booster import Booster
from pav_jax.errors import BadInput
from pav_jax.language import large_models
from pav_jax.language.sampling import Sampling
from pav_jax.models.int8_kernel import is_int8, quantize_params
from tests.tiny.byte_language_model import tiny_language_model

PROMPTS = [list(words.encode()) for words in ("rain", "a girl", "two dogs run", "sea")]
GREEDY = Sampling(max_new_tokens=24, temperature=0.0)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def lm(request):
    sizes = dict(hidden_size=64, intermediate_size=128, tie_word_embeddings=request.param)
    return dataclasses.replace(tiny_language_model(**sizes), eos=())


@pytest.fixture(scope="module")
def in_int8(lm):
    return dataclasses.replace(lm, params=quantize_params(lm.params))


def test_logits_are_close(lm, in_int8):
    ids = np.random.default_rng(0).integers(0, 200, (3, 40))
    expected = np.asarray(lm.logits(ids))
    actual = np.asarray(in_int8.logits(ids))
    assert 0 < np.abs(actual - expected).mean() < 0.05 * expected.std()


@pytest.mark.slow
def test_greedy_tokens_are_those_of_the_logits(in_int8):
    answers = in_int8.generate_ids(PROMPTS, GREEDY)
    for ids, (answer,) in zip(PROMPTS, answers, strict=True):
        logits = np.asarray(in_int8.logits(np.array([[*ids, *answer]])))[0, len(ids) - 1 : -1]
        np.testing.assert_array_equal(logits.argmax(1), answer)


def test_samples_do_not_depend_on_the_others(in_int8):
    together = in_int8.generate_ids(PROMPTS, Sampling(max_new_tokens=24), 2, range(4))
    for seed in (1, 3):
        alone = in_int8.generate_ids([PROMPTS[seed]], Sampling(max_new_tokens=24), 2, seed)
        assert alone == [together[seed]]


def test_save_is_refused(in_int8, tmp_path):
    with pytest.raises(BadInput, match="int8=False"):
        in_int8.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_booster_rounds_large_float32_models_on_cpu(lm, tmp_path, monkeypatch):
    lm.save_pretrained(tmp_path)

    def is_rounded(**options):
        booster = Booster.from_pretrained(tmp_path, template="model", **options)
        return is_int8(booster.language_model.params.get("lm_head"))

    assert not is_rounded() and is_rounded(int8=True)
    monkeypatch.setattr(large_models, "MIN_PARAMETERS", 1000)
    assert is_rounded() and not is_rounded(int8=False)
    assert not is_rounded(dtype="bfloat16")
    with pytest.raises(BadInput, match="bfloat16.*use dtype='float32'"):
        is_rounded(dtype="bfloat16", int8=True)
