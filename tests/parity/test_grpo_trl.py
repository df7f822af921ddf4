"""The policy loss and its gradients against TRL's own trainer, on one batch and a tiny model of
each family, and advantages against TRL's formula."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from pav_jax.checkpoints import folder as folders
from pav_jax.language.log_probs import log_probs
from pav_jax.models.decoder import Decoder, hf
from pav_jax.train.group_rewards import advantages
from pav_jax.train.grpo_loss import PolicyLoss, policy_loss
from tests.parity.trl_models import FAMILIES, make_model, make_tokenizer
from tests.tiers import first_slow

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9], [10, 11]]
ANSWERS = [[12, 13, 14, 15, 1], [16, 1], [17, 18, 19, 20, 21, 22, 1], [23, 24, 25]]
COUNTS = [True, True, True, False]  # the last completion has no reward
ADVANTAGES = [1.3, -0.9, -0.4, 0.0]
LONGEST = 8
LENGTH = 12
TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=["llama"])
def trainer(request, tmp_path_factory):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        report_to="none",
        bf16=False,
        num_generations=2,
        per_device_train_batch_size=2,
        temperature=TEMPERATURE,
        max_completion_length=LONGEST,
        router_aux_loss_coef=0.0,  # ours has no loss that balances experts
    )
    made = GRPOTrainer(
        model=make_model(request.param, 0),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=make_tokenizer(),
    )
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def policy(trainer, tmp_path_factory):
    """TRL's model in JAX: (its parameters, parameters -> log-probabilities of the rows)."""
    folder = tmp_path_factory.mktemp("saved")
    trainer.model.save_pretrained(folder)
    config, params = folders.load(hf, folder)
    ids = np.zeros((4, LENGTH), np.int32)
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        ids[i, : len(prompt) + len(tokens)] = prompt + tokens

    def compute(params):
        variables = {"params": params}
        rows = jnp.asarray(ids)
        return log_probs(Decoder(config), variables, rows, chunk_size=5, temperature=TEMPERATURE)

    return params, compute


@pytest.fixture(scope="module")
def batch(policy):
    """(rows as ours, rows as TRL's); old and reference log-probabilities lie at random around the
    policy's."""
    prompt_length = max(map(len, PROMPTS))
    answer = np.zeros((4, LENGTH), bool)
    theirs = {
        name: np.zeros((4, prompt_length if "prompt" in name else LONGEST), np.int64)
        for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    }
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        answer[i, len(prompt) : len(prompt) + len(tokens)] = COUNTS[i]
        theirs["prompt_ids"][i, prompt_length - len(prompt) :] = prompt
        theirs["prompt_mask"][i, prompt_length - len(prompt) :] = 1
        theirs["completion_ids"][i, : len(tokens)] = tokens
        theirs["completion_mask"][i, : len(tokens)] = COUNTS[i]
    params, compute = policy
    logp = np.array(jax.jit(compute)(params))
    rng = np.random.default_rng(8)  # clips at both ends
    columns = {
        name: (logp + rng.normal(0, 0.4, logp.shape)).astype(np.float32) for name in ("old", "ref")
    }
    theirs = {name: torch.from_numpy(value) for name, value in theirs.items()} | {
        "advantages": torch.tensor(ADVANTAGES),
        "num_items_in_batch": torch.tensor(theirs["completion_mask"].sum()),
    }
    for name, values in columns.items():
        column = np.zeros((4, LONGEST), np.float32)
        for i, (prompt, tokens) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            column[i, : len(tokens)] = values[i, len(prompt) : len(prompt) + len(tokens)]
        theirs[f"{name}_per_token_logps"] = torch.from_numpy(column)
    return (logp, answer, columns["old"], columns["ref"]), theirs


def set_loss(trainer, config):
    """Give TRL's trainer the fields of our loss."""
    trainer.loss_type = config.loss_type
    trainer.beta = config.beta
    trainer.max_completion_length = config.max_completion_length
    trainer.epsilon_low = config.epsilon
    trainer.epsilon_high = config.upper_epsilon
    trainer.args.use_bias_correction_kl = config.use_bias_correction_kl


SETTINGS = [
    dict(loss_type="grpo"),
    dict(loss_type="dapo"),
    dict(loss_type="bnpo"),
    dict(loss_type="dr_grpo"),
    dict(loss_type="grpo", beta=0.3),
    dict(loss_type="dapo", beta=0.3, use_bias_correction_kl=False),
    dict(loss_type="dr_grpo", beta=0.04, epsilon=0.1, epsilon_high=0.28),
]
OTHERS = [(family, SETTINGS[5]) for family in FAMILIES if family != "llama"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer, fields",
    first_slow([*(("llama", fields) for fields in SETTINGS), *OTHERS], 11),
    indirect=["trainer"],
    ids=lambda f: f if isinstance(f, str) else "-".join(f"{v}" for v in f.values()),
)
def test_policy_loss_equals_trl(trainer, batch, fields):
    config = PolicyLoss(max_completion_length=LONGEST, **fields)
    (logp, answer, old, reference), theirs = batch
    arrays = map(jnp.asarray, (logp, answer, ADVANTAGES, old, reference))
    got, metrics = policy_loss(config, *arrays)

    set_loss(trainer, config)
    with torch.no_grad():
        want = float(trainer._compute_loss(trainer.model, theirs))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
        np.testing.assert_allclose(metrics[name], logged[name], atol=1e-5, err_msg=name)
    assert metrics["clip_ratio/low_mean"] > 0 and metrics["clip_ratio/high_mean"] > 0
    if (
        config.beta and not config.use_bias_correction_kl
    ):  # TRL logs what it adds, the ratio included
        np.testing.assert_allclose(metrics["kl"], logged["kl"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", first_slow(FAMILIES, 3), indirect=True)
def test_parameter_gradients_equal_trl(trainer, policy, batch, tmp_path):
    (_, answer, old, reference), theirs = batch
    config = PolicyLoss(loss_type="dapo", beta=0.3, max_completion_length=LONGEST)
    set_loss(trainer, config)
    trainer._compute_loss(trainer.model, theirs).backward()
    gradients = copy.deepcopy(trainer.model)
    with torch.no_grad():
        for holder, parameter in zip(
            gradients.parameters(), trainer.model.parameters(), strict=True
        ):
            holder.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    trainer.model.zero_grad()
    gradients.save_pretrained(tmp_path)  # gradients under the names of their parameters
    want = traverse_util.flatten_dict(folders.load(hf, tmp_path)[1], sep="/")

    params, compute = policy
    arrays = tuple(map(jnp.asarray, (answer, ADVANTAGES, old, reference)))
    loss = functools.partial(policy_loss, config)
    got = jax.jit(jax.grad(lambda params: loss(compute(params), *arrays)[0]))(params)
    got = traverse_util.flatten_dict(got, sep="/")
    assert set(got) == set(want)
    for name, gradient in want.items():
        error = np.abs(np.asarray(got[name]) - gradient).max()
        assert error <= 1e-4 * max(np.abs(gradient).max(), 1e-3), name


def test_gradients_equal_trl(trainer, batch):
    """Of the loss by the log-probabilities: the clipped and the masked tokens have none."""
    (logp, answer, old, reference), theirs = batch
    config = PolicyLoss(loss_type="dapo", beta=0.3, max_completion_length=LONGEST)
    set_loss(trainer, config)
    arrays = list(map(jnp.asarray, (answer, ADVANTAGES, old, reference)))
    got = np.asarray(jax.grad(lambda x: policy_loss(config, x, *arrays)[0])(jnp.asarray(logp)))
    torch_logp = torch.zeros(4, LONGEST)
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        torch_logp[i, : len(tokens)] = torch.from_numpy(
            logp[i, len(prompt) : len(prompt) + len(tokens)]
        )
    torch_logp.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainer,
            "_get_per_token_logps_and_entropies",
            lambda *_, **__: (torch_logp, torch.zeros(4, LONGEST), None),
        )
        trainer._compute_loss(trainer.model, theirs).backward()
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        np.testing.assert_allclose(
            got[i, len(prompt) : len(prompt) + len(tokens)],
            torch_logp.grad[i, : len(tokens)],
            atol=1e-6,
        )
    assert not got[~answer].any() and got.any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(scale):
    """TRL computes them in the middle of sampling; these are its lines
    (`_generate_and_score_completions`)."""
    from trl.trainer.utils import nanstd

    rewards = np.random.default_rng(1).normal(2.0, 3.0, (5, 4))
    rewards[0, 1] = rewards[3, :2] = np.nan
    rewards[4] = 1.5
    flat = torch.from_numpy(rewards).reshape(-1)
    mean = torch.nanmean(flat.view(-1, 4), dim=1).repeat_interleave(4)
    deviation = (
        nanstd(flat.view(-1, 4), dim=1).repeat_interleave(4) if scale != "batch" else nanstd(flat)
    )
    want = flat - mean if scale == "none" else (flat - mean) / (deviation + 1e-4)
    np.testing.assert_allclose(
        advantages(rewards, scale).ravel(), torch.nan_to_num(want, nan=0.0), atol=1e-6
    )
