"""Supervised tuning on a tiny rewriter: what is learnt, what is saved, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.train import sft, stage
from pav_jax.train.config import sft_config
from pav_jax.train.loop import compile_step
from tests.train import tiny


def make_config(**changes):
    fields = sft_config()
    fields.update(dict(steps=6, batch_size=4, learning_rate=3e-2, schedule="constant", max_length=32, save_every=2,
                       log_every=2, loss_chunk=8))
    fields.lora.dropout = 0.0
    fields.update(changes)
    return ConfigDict({"seed": 0, "sft": fields})


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], np.asarray([line["loss"] for line in lines])


def quiet(*_):
    """A progress callback that shows nothing."""


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "sft_pairs.jsonl")


@pytest.fixture(scope="module")
def straight(lm, pairs, tmp_path_factory):
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("straight")
    before = jax.tree.map(np.array, lm.params)
    calls = []
    booster = sft.run(make_config(), lm, pairs, folder, progress=lambda *call: calls.append(call))
    return folder, booster, before, calls


def test_loss_falls_and_the_model_given_is_left_alone(straight, lm):
    folder, booster, before, calls = straight
    steps, losses = curve(folder)
    assert steps == [1, 2, 3, 4, 5, 6] and losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, before, lm.params)
    assert booster == folder / "booster"
    assert [c[:2] for c in calls] == [(2, 6), (4, 6), (6, 6)]


def test_metrics_name_what_a_reader_asks_for(straight):
    line = json.loads((straight[0] / "metrics.jsonl").read_text().splitlines()[0])
    assert set(line) == {"step", "loss", "lengths/answer", "grad_norm", "learning_rate", "tokens_per_second"}
