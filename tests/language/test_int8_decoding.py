"""Sampling with 8-bit kernels in the steps that draw tokens."""

import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.booster import booster as boosters
from pav_jax.booster.booster import Booster
from pav_jax.errors import BadInput
from pav_jax.language.sampling import Sampling
from tests.tiny.byte_language_model import tiny_language_model

PROMPTS = [list(words.encode()) for words in ("rain", "a girl", "two dogs run", "sea")]
GREEDY = Sampling(max_new_tokens=24, temperature=0.0)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def lm(request):
    sizes = dict(hidden_size=64, intermediate_size=128, tie_word_embeddings=request.param)
    return dataclasses.replace(tiny_language_model(**sizes), eos=())


def test_greedy_tokens_are_among_the_likeliest(lm):
    in_int8 = dataclasses.replace(lm, int8_decoding=True)
    gaps = []
    for ids, (answer,) in zip(PROMPTS, in_int8.generate_ids(PROMPTS, GREEDY), strict=True):
        logits = np.asarray(lm.logits(np.array([[*ids, *answer]])))[0, len(ids) - 1 : -1]
        chosen = np.take_along_axis(logits, np.array(answer)[:, None], 1)[:, 0]
        gaps += list((logits.max(1) - chosen) / logits.std(1))
    assert np.mean(np.array(gaps) == 0) > 0.8  # rounding decides between close ones only
    assert max(gaps) < 0.3


def test_samples_do_not_depend_on_the_others(lm):
    in_int8 = dataclasses.replace(lm, int8_decoding=True)
    together = in_int8.generate_ids(PROMPTS, Sampling(max_new_tokens=24), 2, range(4))
    assert together != lm.generate_ids(PROMPTS, Sampling(max_new_tokens=24), 2, range(4))
    for seed in (1, 3):
        alone = in_int8.generate_ids([PROMPTS[seed]], Sampling(max_new_tokens=24), 2, seed)
        assert alone == [together[seed]]


def test_parameters_stay_as_they_are(lm):
    in_int8 = dataclasses.replace(lm, int8_decoding=True)
    in_int8.generate_ids(PROMPTS[:1], GREEDY)
    assert jax.tree.all(jax.tree.map(lambda a: a.dtype == np.float32, in_int8.params))


def test_booster_chooses_int8_for_large_float32_models_on_cpu(lm, tmp_path, monkeypatch):
    lm.save_pretrained(tmp_path)
    decoding = lambda **options: (  # noqa: E731
        Booster.from_pretrained(tmp_path, template="model", **options).language_model.int8_decoding
    )
    assert not decoding() and decoding(int8_decoding=True)
    monkeypatch.setattr(boosters, "MIN_INT8_PARAMETERS", 1000)
    assert decoding() and not decoding(int8_decoding=False)
    assert not decoding(dtype="bfloat16")
    with pytest.raises(BadInput, match="bfloat16.*needs float32"):
        decoding(dtype="bfloat16", int8_decoding=True)
