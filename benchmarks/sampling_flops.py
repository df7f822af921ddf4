"""FLOPs of a token of a language model, for the benchmarks of sampling."""

from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import count

FORMULA = "FLOPs of a token = 2 * (weights, embeddings once) + 4 * layers * width * mean context"


def flops_per_token(lm: LanguageModel, context: float) -> float:
    """See FORMULA. The tied embedding matrix counts once, as the output projection."""
    c = lm.config
    return (
        2 * count(lm.params)
        + 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * context
    )
