"""Supervised tuning on a tiny rewriter: what is learnt, what is saved, what is refused."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.language.log_probs import log_probs
from pav_jax.language.lora import LoraConfig, init_lora, merge
from pav_jax.parallel import chips
from pav_jax.train import sft_trainer as sft
from pav_jax.train.config import REMAT_POLICIES, sft_config
from pav_jax.train.data import read_data
from pav_jax.train.loop import compile_step
from pav_jax.train.state import make_state, training_model
from tests.tiny import language_model as tiny


def make_config(**changes):
    fields = sft_config()
    fields.update(
        dict(
            max_steps=6,
            batch_size=4,
            learning_rate=3e-2,
            lr_scheduler_type="constant",
            max_length=32,
            save_steps=2,
            logging_steps=2,
            loss_chunk_size=8,
        )
    )
    fields.lora.lora_dropout = 0.0
    fields.update(changes)
    return ConfigDict({"seed": 0, "sft": fields})


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], np.asarray([line["loss"] for line in lines])


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
    booster = sft.run(make_config(), lm, pairs, folder, progress=tiny.Watch(calls.append))
    return folder, booster, before, calls


def test_run_loss_falls(straight, lm):
    folder, booster, before, calls = straight
    steps, losses = curve(folder)
    assert steps == [1, 2, 3, 4, 5, 6] and losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, before, lm.params)
    assert booster == folder / "booster"
    assert calls == [0, 2, 4, 6]


def test_run_metric_names(straight):
    line = json.loads((straight[0] / "metrics.jsonl").read_text().splitlines()[0])
    assert set(line) == {
        "step",
        "loss",
        "lengths/answer",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "tokens_per_second_per_chip",
        "mfu",
    }


def test_run_mfu(lm, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(chips, "peak_flops", lambda kind: 5e9)
    sft.run(make_config(length_buckets=(16,)), lm, pairs, tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    batch = next(
        read_data("sft", pairs, lm, make_config(length_buckets=(16,)).sft, tmp_path).batches(
            4, None
        )
    )
    assert batch["ids"].shape == (4, 16)
    a_layer = 32 * (32 + 2 * 16 + 32) + 3 * 32 * 48  # q, k, v, o; gate, up, down
    adapter = 2 * 8 * ((32 + 32) + (32 + 16))  # of q and v, both layers
    # of a token; attention has no weights
    frozen = 2 * (2 * a_layer + 32 * 32)
    trained = 2 * adapter + 4 * 16 * 32 * 2
    operations = 4 * 16 * (2 * frozen + 3 * trained)
    # both rates are of the same two steps, so their seconds cancel
    steps = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()][
        -2:
    ]
    tokens = {line["mfu"] / line["tokens_per_second"] for line in steps}
    assert line["tokens_per_second_per_chip"] == line["tokens_per_second"]
    assert 2 * operations / 5e9 / tokens.pop() == pytest.approx(
        tokens_of(pairs, lm, tmp_path, 5, 6), rel=1e-6
    )


def tokens_of(pairs, lm, folder, *steps):
    """Tokens in the batches of some steps."""
    stream = read_data("sft", pairs, lm, make_config(length_buckets=(16,)).sft, folder).batches(
        4, 0
    )
    counts = [next(stream)["tokens"] for _ in range(max(steps))]
    return sum(int(counts[i - 1]) for i in steps)


def crash_at(step):
    def seen(done):
        if done >= step:
            raise KeyboardInterrupt

    return tiny.Watch(seen)


def signal_at(step):
    def seen(done):
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return tiny.Watch(seen)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [crash_at, signal_at])
@pytest.mark.parametrize(
    "changes",
    [dict(), dict(lora=dict(lora_dropout=0.2)), dict(full_finetuning=True, learning_rate=1e-3)],
    ids=["lora", "dropout", "full"],
)
def test_run_resumed(lm, pairs, tmp_path, stop, changes):
    config = make_config(logging_steps=1, save_steps=3, **changes)
    sft.run(config, lm, pairs, tmp_path / "straight")
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        sft.run(config, lm, pairs, tmp_path / "stopped", stop(4))
    if stop is signal_at:
        assert stopped.value.code == 143
        assert (
            tmp_path / "stopped" / "checkpoints" / "5"
        ).is_dir()  # the step that ran while the signal came
    assert not (tmp_path / "stopped" / "booster").exists()
    sft.run(config, lm, pairs, tmp_path / "stopped")
    steps, want = curve(tmp_path / "straight")
    again, got = curve(tmp_path / "stopped")
    assert steps == again == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)


def test_run_finished(straight, lm, pairs):
    folder, booster, _, _ = straight
    stamp = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert sft.run(make_config(), lm, pairs, folder, crash_at(0)) == booster
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp


def test_run_incomplete_checkpoint(lm, pairs, tmp_path):
    config = make_config(logging_steps=1, save_steps=2)
    sft.run(config, lm, pairs, tmp_path)
    want = curve(tmp_path)[1]
    shutil.rmtree(tmp_path / "booster")
    for file in (tmp_path / "checkpoints" / "6" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp-1").mkdir()
    with pytest.warns(UserWarning) as warned:
        sft.run(config, lm, pairs, tmp_path)
    texts = " ".join(str(w.message) for w in warned)
    assert (
        "checkpoints/6: incomplete or corrupt checkpoint" in texts
        and "8.orbax-checkpoint-tmp-1 was being written" in texts
    )
    np.testing.assert_allclose(curve(tmp_path)[1], want, atol=1e-6, rtol=0)


def test_run_checkpoint_size(straight, lm):
    state = straight[0] / "checkpoints" / "6" / "state"
    saved = json.loads((state / "_METADATA").read_text())["tree_metadata"]
    assert any("'lora'" in name for name in saved) and not any("'params'" in name for name in saved)


def test_save_booster_outputs(straight, lm):
    """The merged folder, in transformers, gives the logits of base plus adapter."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder, booster, _, _ = straight
    loaded = transformers.AutoModelForCausalLM.from_pretrained(booster, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(booster)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a b"}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "<user>", "a", "b", "<booster>"]
    import orbax.checkpoint as ocp

    adapter = ocp.StandardCheckpointer().restore(
        (folder / "checkpoints" / "6" / "state").absolute()
    )["trained"]
    model = training_model(lm, make_config().sft)
    want = model.apply({"params": lm.params, **adapter}, jnp.asarray([ids]))
    with torch.no_grad():
        got = loaded(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(got - lm.model.apply({"params": lm.params}, jnp.asarray([ids]))).max() > 0.1


def test_run_from_adapter(lm, pairs, tmp_path):
    config = LoraConfig(r=2, lora_alpha=4.0, target_modules=("o_proj",))
    adapter = jax.tree.map(lambda x: x + 0.3, init_lora(lm.params, config, jax.random.key(5)))
    with_adapter = lm.with_lora(adapter, config)
    sft.run(make_config(max_steps=1), with_adapter, pairs, tmp_path / "adapter")
    sft.run(
        make_config(max_steps=1),
        lm.with_params(merge(lm.params, adapter, config)),
        pairs,
        tmp_path / "merged",
    )
    sft.run(make_config(max_steps=1), lm, pairs, tmp_path / "base")
    got, want, base = (curve(tmp_path / name)[1] for name in ("adapter", "merged", "base"))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert abs(got[0] - base[0]) > 1e-3


def test_train_step_gradient_accumulation(lm):
    rng = np.random.default_rng(1)
    batch = {
        "ids": jnp.asarray(rng.integers(0, 32, (8, 16)), jnp.int32),
        "answer": jnp.asarray(rng.random((8, 16)) < rng.random((8, 1))),
    }
    results = []
    for parts in (1, 4):
        fields = make_config(batch_size=8, gradient_accumulation_steps=parts).sft
        tx = optax.sgd(1.0)
        state, shardings, _ = make_state("sft", lm, fields, tx, 0)
        step = compile_step(
            sft.make_train_step(training_model(lm, fields), tx, lambda _: 1.0, fields),
            shardings,
        )
        results.append(step(state, batch))
    (whole, metrics_whole), (parts, metrics_parts) = results
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole.trained, parts.trained
    )
    assert float(metrics_whole["loss"]) == pytest.approx(float(metrics_parts["loss"]), rel=1e-5)


def test_run_compiles_once(lm, pairs, tmp_path):
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        import logging

        names = []
        patch.setattr(
            logging.Logger, "handle", lambda self, record: names.append(record.getMessage())
        )
        sft.run(make_config(max_steps=5), lm, pairs, tmp_path)
    assert sum("Compiling jit(step)" in name for name in names) == 1


def test_make_state_parameter_count(lm, pairs, tmp_path, capsys):
    config = make_config(max_steps=1, lora=dict(r=4, target_modules=("q_proj", "down_proj")))
    sft.run(config, lm, pairs, tmp_path)
    count = 2 * 4 * ((32 + 32) + (48 + 32))  # layers, rank, in + out
    assert (
        f"training {count:,} parameters (LoRA r=4 on q_proj, down_proj)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(gradient_accumulation_steps=3), "gradient_accumulation_steps"),
        (dict(lr_scheduler_type="cosin"), "lr_scheduler_type"),
        (dict(batch_size=0), "batch_size"),
        (dict(max_steps=None, num_train_epochs=0.0), "num_train_epochs"),
    ],
)
def test_run_invalid_field(lm, pairs, tmp_path, changes, named):
    with pytest.raises(BadInput) as error:
        sft.run(make_config(**changes), lm, pairs, tmp_path)
    assert error.value.field == f"sft.{named}"


@pytest.mark.parametrize("field, value", [("batchsize", 3), ("num_train_epochs", "three")])
def test_sft_section_unknown_field_or_type(lm, pairs, tmp_path, field, value):
    config = ConfigDict({"seed": 0, "sft": {field: value}})
    with pytest.raises(BadInput) as error:
        sft.run(config, lm, pairs, tmp_path)
    assert error.value.field == f"sft.{field}"


def test_run_folder_of_another_training(straight, lm, pairs):
    with pytest.raises(BadInput, match="learning_rate=0.03, now it is 0.5"):
        sft.run(make_config(learning_rate=0.5), lm, pairs, straight[0])


def test_run_after_invalid_field(lm, pairs, tmp_path):
    with pytest.raises(BadInput, match="no_such_layer"):
        sft.run(make_config(lora=dict(target_modules=("no_such_layer",))), lm, pairs, tmp_path)
    assert sft.run(make_config(max_steps=1), lm, pairs, tmp_path).is_dir()


def test_run_missing_file(lm, tmp_path):
    with pytest.raises(BadInput, match="none.jsonl: no such file"):
        sft.run(make_config(), lm, tmp_path / "none.jsonl", tmp_path)


def test_run_loss_not_finite(lm, pairs, tmp_path):
    broken = lm.with_params(jax.tree.map(lambda p: p * jnp.nan, lm.params))
    with pytest.raises(BadInput, match="loss is nan"):
        sft.run(make_config(), broken, pairs, tmp_path)


@pytest.mark.slow
def test_run_packing(straight, lm, pairs, tmp_path):
    sft.run(
        make_config(packing=True, gradient_accumulation_steps=2, save_steps=None),
        lm,
        pairs,
        tmp_path,
    )
    np.testing.assert_allclose(curve(tmp_path)[1], curve(straight[0])[1], atol=1e-5)
    lines = [
        [
            json.loads(line)["lengths/answer"]
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (tmp_path, straight[0])
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [*REMAT_POLICIES, "unroll"])
def test_log_probs_remat_policies(lm, policy):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, lm.config.vocab_size, (2, 9)))

    def gradient(**how):
        model = lm.model.clone(**how)
        return jax.jit(jax.grad(lambda p: log_probs(model, {"params": p}, ids, 4).mean()))(
            lm.params
        )

    how = {"unroll": True} if policy == "unroll" else {"remat": True, "remat_policy": policy}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        gradient(**how),
        gradient(remat=False),
    )
