"""Greedy answers of every family equal those of transformers' `generate`, up to ties."""

import numpy as np
import pytest
import torch

from pav_jax.checkpoints.folder import load
from pav_jax.language.samples import Sample
from pav_jax.language.sampling import Sampling
from pav_jax.language.scheduler import MIN_PREFIX, Sampler
from pav_jax.models.decoder import Decoder, hf
from tests.tiers import first_slow
from tests.tiny.decoders import FAMILIES, torch_model

TIE = 1e-4  # of logits
NEW_TOKENS = 40
EOS = 2


def greedy(theirs, folder, prompts, prefix=()) -> list[list[int]]:
    """The answers of our sampler to the same weights."""
    theirs.save_pretrained(folder)
    config, params = load(hf, folder)
    settings = Sampling(NEW_TOKENS, temperature=0.0)
    sampler = Sampler(Decoder(config), {"params": params}, settings, (EOS,), 2, prefix)
    samples = [Sample(i, 0, 0) for i in range(len(prompts))]
    drawn = sampler(prompts, samples)
    return [drawn[sample] for sample in samples]


def assert_greedy(theirs, prompt, answer) -> None:
    """Every token has the highest logit of transformers, up to a tie, and where it first differs
    from what `generate` chose there is one."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = theirs.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=EOS)
        logits = theirs(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].numpy()
    assert len(answer) == NEW_TOKENS or answer[-1] == EOS
    chosen = logits[np.arange(len(answer)), answer]
    assert (logits.max(-1) - chosen).max() <= TIE
    expected = out[0, len(prompt) :].tolist()
    different = [i for i, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b]
    if not different:
        assert answer == expected
        return
    runner_up, best = np.sort(logits[different[0]])[-2:]
    assert best - runner_up <= TIE


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", first_slow([0, 1]))
def test_greedy_answers_equal_transformers_generate(family, seed, tmp_path):
    theirs = torch_model(family, seed)
    vocabulary = theirs.config.vocab_size
    rng = np.random.default_rng(seed)
    # the second shares a prefix that is longer than every window
    prefix = tuple(rng.integers(3, vocabulary, MIN_PREFIX if seed % 2 else 0).tolist())
    lengths = (1, 6, 29)  # shorter and longer than a window; the third refills a row
    prompts = [[*prefix, *rng.integers(3, vocabulary, n).tolist()] for n in lengths]
    for prompt, answer in zip(prompts, greedy(theirs, tmp_path, prompts, prefix), strict=True):
        assert_greedy(theirs, prompt, answer)
