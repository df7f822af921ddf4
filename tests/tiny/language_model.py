"""One tiny rewriter for the training tests: two layers, width 32, a vocabulary of letters. Also of
families with other layers."""

import dataclasses

import jax
import jax.numpy as jnp
import tokenizers
import transformers

from pav_jax.language import chat
from pav_jax.language.encoder import Encoder
from pav_jax.language.language_model import LanguageModel
from pav_jax.models.decoder import Decoder, DecoderConfig, Experts, LayerKind, Rope
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.records import write_jsonl

WORDS = ["<pad>", "<s>", "</s>", "<user>", "<booster>", *"abcdefghijklmnopqrstuvwxyz"]
TEMPLATE = (
    "<s>{% for m in messages %}<user> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<booster>{% endif %}"
)
CONFIG = DecoderConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
# what each family's configuration has of its own
FAMILIES = {
    "llama": {},
    "qwen2": dict(qkv_bias=True, tie_word_embeddings=True),
    "qwen3": dict(qk_norm=True),
    "gemma3_text": dict(
        qk_norm=True,
        norm_offset=1.0,
        post_norms=True,
        embedding_scale=32**0.5,
        attention_scale=8**-0.5,
        tie_word_embeddings=True,
        layer_kinds=(LayerKind(4, Rope()), LayerKind(None, Rope(1e6))),
    ),
    "phi3": dict(rotary_dim=4),
    "qwen3_moe": dict(qk_norm=True, experts=Experts(4, 2, 16, norm_topk_prob=True)),
}


def make_tokenizer(pad="<pad>"):
    plain = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>")
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=pad,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<pad>",
        additional_special_tokens=["<user>", "<booster>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_config(family):
    return dataclasses.replace(CONFIG, model_type=family, **FAMILIES[family])


def make_lm(mesh=None, dtype=jnp.float32, family="llama"):
    config = make_config(family)
    model = Decoder(config, dtype, sum_experts_fn=make_sum_experts_fn(config.experts, mesh))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    return LanguageModel(model, params, config, make_tokenizer(), name="tiny", eos=(2,), mesh=mesh)


def make_encoder(tokenizer=None, max_length=64, max_prompt_length=32, vocabulary=31):
    tokenizer = tokenizer or make_tokenizer()
    return Encoder(
        tokenizer,
        lambda prompt: chat.encode(tokenizer, chat.user_chat(prompt)),
        2,
        vocabulary,
        max_length,
        max_prompt_length,
    )


def write_pairs(path, count=12):
    letters = WORDS[5:]
    write_jsonl(
        path,
        [
            PromptPair(
                letters[i % 26], " ".join(letters[(3 * i + j) % 26] for j in range(1 + i % 5))
            )
            for i in range(count)
        ],
    )
    return path


def write_preferences(path, count=12):
    letters = WORDS[5:]
    write_jsonl(
        path,
        [
            Preference(
                letters[i % 26],
                " ".join(letters[(3 * i + j) % 26] for j in range(2 + i % 4)),
                " ".join(letters[(7 * i + j) % 26] for j in range(1 + i % 5)),
                1.0,
            )
            for i in range(count)
        ],
    )
    return path


class Watch:
    """Stands for a progress display: calls `seen(steps done)` after each report."""

    def __init__(self, seen=lambda done: None):
        self.seen = seen

    def add_task(self, name, total, **fields):
        self.total = total
        return 0

    def update(self, task, completed, **fields):
        self.seen(completed)
