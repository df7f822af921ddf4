"""A real model of another family: Qwen2.5-Coder-0.5B-Instruct (Q4_K_M), read by us and by
transformers from the same GGUF file, in float32."""

import math
import unicodedata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pav_jax.checkpoints.gguf import GGUFFile
from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from tests import campaigns
from tests.absent import fetched
from tests.checkpoints.test_gguf_tokenizers import TEXTS
from tests.commands.run_pav import run
from tests.qwen_coder import qwen_coder

SUBJECTS = ("a girl", "two black cats", "an old sailor", "a red kite", "a robot")
ACTIONS = ("playing guitar", "crossing a bridge", "in the rain", "at night", "on a beach")
STYLES = ("", ", slow zoom out")
PROMPTS = [f"{who} {does}{how}" for who in SUBJECTS for does in ACTIONS for how in STYLES]
# all 50 take minutes
GREEDY = PROMPTS if campaigns.IS_REQUESTED else PROMPTS[::10]
NEW = 12
GAP = 1e-3  # between the best two logits: closer ones may change places
ROWS = 10

pytestmark = pytest.mark.slow  # a real model of 494 million parameters, 2 GB in float32 twice


@pytest.fixture(scope="module")
def file():
    return fetched(qwen_coder)


@pytest.fixture(scope="module")
def ours(file):
    return LanguageModel.from_pretrained(file, dtype="float32", batch_size=ROWS)


def test_tokenizer_equals_transformers(file):
    ours = GGUFFile(file).tokenizer()
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers leaves out Qwen's normalizer when it reads GGUF
    texts = [unicodedata.normalize("NFC", text) for text in (*PROMPTS, *TEXTS)]
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    conversation = chat.user_chat(PROMPTS[0])
    expected = theirs.apply_chat_template(
        conversation, add_generation_prompt=True, return_dict=False
    )
    assert chat.encode(ours, conversation) == expected


def test_generate_greedy_equals_transformers(file, ours):
    ids = [ours.prompt_ids(prompt) for prompt in GREEDY]
    answers = ours.generate_ids(ids, Sampling(max_new_tokens=NEW, temperature=0.0))
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    equal = 0
    for prompt, row, (answer,) in zip(GREEDY, ids, answers, strict=True):
        with torch.no_grad():  # one pass over prompt and answer gives the logits of every step
            logits = theirs(torch.tensor([row + answer])).logits[0, len(row) - 1 : -1]
        best = logits.topk(2)
        for i, token in enumerate(answer):
            gap = best.values[i, 0] - best.values[i, 1]
            assert token == best.indices[i, 0] or gap < GAP, (prompt, i)
        equal += answer == best.indices[:, 0].tolist()
        ended = answer[-1] in ours.eos
        assert ended or len(answer) == NEW
    print(f"{equal} of {len(GREEDY)} rows wholly equal")
    assert equal >= math.floor(0.96 * len(GREEDY))  # rounding may change a row


def test_refine_rewrites_without_further_options(file, capsys):
    with pytest.warns(UserWarning, match="no instruction to rewrite"):
        status, out, err = run(capsys, "refine", "a girl is playing guitar", f"--model={file}")
    rewrite = out.lower()
    assert status == 0 and "unchanged" not in err
    assert "girl" in rewrite and "guitar" in rewrite
    # an answer to the prompt speaks of the model or to the user
    assert not {"i'm", "i", "sorry", "sure", "assistant", "certainly"} & set(rewrite.split())
    assert len(rewrite.split()) > 10  # twice the prompt's
