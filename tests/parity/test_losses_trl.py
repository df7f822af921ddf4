"""Preference losses against TRL's own trainer, on one tiny Llama and one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load
from pav_jax.models.decoder import Decoder, hf
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train import losses
from tests.parity.trl_llama import LLAMA, WORDS
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

PAIRS = [
    {"prompt": "a b c ", "chosen": "d e f g", "rejected": "h i"},
    {"prompt": "k ", "chosen": "l m", "rejected": "n o p q r s"},
    {"prompt": "t u v w ", "chosen": "x y z a b", "rejected": "c d e f g"},
]


@pytest.fixture(scope="module")
def torch_side():
    import tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>")
    plain = tokenizers.Tokenizer(vocabulary)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<pad>"
    )
    config = LlamaConfig(**LLAMA)
    models = []
    for seed in (0, 1):  # policy, reference
        torch.manual_seed(seed)
        models.append(LlamaForCausalLM(config).eval())
    return tokenizer, models


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
def our_loss(config, llama_config, policy, reference, ids, answer):
    model = Decoder(llama_config)
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


@pytest.mark.parametrize(
    "fields", first_fast(SETTINGS, 3), ids=lambda f: "-".join(f"{v}" for v in f.values())
)
def test_preference_loss_equals_trl(ours, trl_loss, fields):
    want, want_metrics, batch = trl_loss(**fields)
    config = losses.PreferenceLoss(**{"loss_type": ("sigmoid",)} | fields)
    # TRL stacks all chosen answers, then all rejected ones
    ids, answer = (
        jnp.stack(jnp.split(jnp.asarray(batch[k].numpy()), 2), 1)
        for k in ("input_ids", "completion_mask")
    )
    (llama_config, policy), (_, reference) = ours
    got, metrics = our_loss(config, llama_config, policy, reference, ids, answer.astype(bool))
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
