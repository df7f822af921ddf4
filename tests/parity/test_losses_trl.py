"""Losses against TRL's own trainers, on one batch and tiny models of several families."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load
from pav_jax.language.log_probs import log_probs
from pav_jax.models.decoder import Decoder, hf
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train import losses
from tests.parity.trl_models import FAMILIES, make_model, make_tokenizer
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

PAIRS = [
    {"prompt": "a b c ", "chosen": "d e f g", "rejected": "h i"},
    {"prompt": "k ", "chosen": "l m", "rejected": "n o p q r s"},
    {"prompt": "t u v w ", "chosen": "x y z a b", "rejected": "c d e f g"},
]


@pytest.fixture(scope="module")
def torch_side(request):
    """The tokenizer, and policy and reference of a family."""
    return make_tokenizer(), [make_model(request.param, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def trl_loss(torch_side, tmp_path_factory):
    """(DPOConfig fields) -> (loss, metrics, batch) from DPOTrainer's code path."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer, (policy, reference) = torch_side
    folder = tmp_path_factory.mktemp("trl")

    def run(**fields):
        args = DPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            report_to="none",
            bf16=False,
            disable_dropout=False,
            per_device_train_batch_size=len(PAIRS),
            **fields,
        )
        trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            args=args,
            train_dataset=Dataset.from_list(PAIRS),
            processing_class=tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
        with torch.no_grad():
            loss = trainer._compute_loss(policy, batch, return_outputs=False)
        return float(loss), {k: v[-1] for k, v in trainer._metrics["eval"].items()}, batch

    return run


@pytest.fixture(scope="module")
def ours(torch_side, tmp_path_factory):
    """The two models in JAX, read from what transformers saves."""
    loaded = []
    for model in torch_side[1]:
        folder = tmp_path_factory.mktemp("saved")
        model.save_pretrained(folder)
        loaded.append(load(hf, folder))
    return loaded


@functools.partial(jax.jit, static_argnums=(0, 1))
def our_loss(config, decoder_config, policy, reference, ids, answer):
    model = Decoder(decoder_config)
    logp, base = (
        dpo.pair_log_probs(model, {"params": params}, ids, answer, chunk_size=4)
        for params in (policy, reference)
    )
    reference_logps = losses.answer_log_probs(base, answer, config.ld_alpha)
    return losses.preference_loss(config, logp, answer, reference_logps)


SETTINGS = [
    dict(loss_type=["sigmoid"]),
    dict(loss_type=["sigmoid"], beta=0.7),
    dict(loss_type=["ipo"], beta=0.3),
    dict(loss_type=["hinge"]),
    dict(loss_type=["robust"], label_smoothing=0.1),
    dict(loss_type=["robust"], label_smoothing=0.3, beta=0.5),
    dict(loss_type=["exo_pair"], label_smoothing=0.001),
    dict(loss_type=["sigmoid_norm"]),
    dict(loss_type=["sigmoid", "sft"]),
    dict(loss_type=["sigmoid", "ipo", "sft"], loss_weights=[0.8, 0.2, 1.5]),
    dict(loss_type=["sigmoid"], ld_alpha=0.4),
]


CASES = [("llama", fields) for fields in SETTINGS]
CASES += [(family, SETTINGS[i]) for family in ("qwen3", "gemma3_text") for i in (8, 10)]


@pytest.mark.parametrize(
    "torch_side, fields",
    first_fast(CASES, 3, slow=6),
    indirect=["torch_side"],
    ids=lambda f: f if isinstance(f, str) else "-".join(f"{v}" for v in f.values()),
)
def test_preference_loss_equals_trl(ours, trl_loss, fields):
    want, want_metrics, batch = trl_loss(**fields)
    config = losses.PreferenceLoss(**{"loss_type": ("sigmoid",)} | fields)
    # TRL stacks all chosen answers, then all rejected ones
    ids, answer = (
        jnp.stack(jnp.split(jnp.asarray(batch[k].numpy()), 2), 1)
        for k in ("input_ids", "completion_mask")
    )
    (decoder_config, policy), (_, reference) = ours
    got, metrics = our_loss(config, decoder_config, policy, reference, ids, answer.astype(bool))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for name in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    ):
        np.testing.assert_allclose(
            metrics[name], want_metrics[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("torch_side", FAMILIES, indirect=True)
def test_sft_loss_equals_trl(torch_side, ours, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer, (model, _) = torch_side
    args = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to="none",
        bf16=False,
        completion_only_loss=True,
        router_aux_loss_coef=0.0,  # ours has no loss that balances experts
        per_device_train_batch_size=len(PAIRS),
    )
    rows = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    with torch.no_grad():
        want = float(trainer.compute_loss(model, dict(batch)))
    ids, labels = (jnp.asarray(batch[name].numpy()) for name in ("input_ids", "labels"))
    answer = labels != -100
    config, params = ours[0]
    logp = log_probs(Decoder(config), {"params": params}, ids, chunk_size=4, mask_BxT=answer)
    got = losses.sft_loss(logp, answer, jnp.sum(answer).astype(jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5)
