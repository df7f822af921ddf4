"""A tiny language model with random parameters and a tokenizer of bytes."""

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pav_jax.language.language_model import LanguageModel
from pav_jax.models.decoder import Decoder, DecoderConfig

TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE without merges: bytes and four special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<pad>", "<|end|>", "<|user|>", "<|assistant|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_language_model(batch_size: int = 4, seed: int = 0, **sizes) -> LanguageModel:
    """Return a Llama of two layers; `sizes` replace fields of its configuration."""
    tokenizer = tiny_tokenizer()
    config = DecoderConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": 0.3,
            "eos_token_id": tokenizer.eos_token_id,
            **sizes,
        }
    )
    model = Decoder(config)
    params = model.init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"]
    return LanguageModel(
        model,
        params,
        config,
        tokenizer,
        name="tiny",
        eos=(tokenizer.eos_token_id,),
        batch_size=batch_size,
    )
