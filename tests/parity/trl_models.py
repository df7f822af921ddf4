"""The words, the tokenizer and the tiny models of the comparisons with TRL."""

WORDS = ["<pad>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
SIZES = dict(
    vocab_size=len(WORDS),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=None,
    initializer_range=0.3,
)
# what each family has of its own; windows are shorter than the texts
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": dict(sliding_window=4),
    "smollm3": dict(no_rope_layers=[1, 0]),
    "phi3": dict(sliding_window=4),
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "gemma3_text": dict(
        tie_word_embeddings=True,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
    ),
}


def make_tokenizer():
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>")
    plain = tokenizers.Tokenizer(vocabulary)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<pad>"
    )


def make_model(family, seed):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family])
    return AutoModelForCausalLM.from_config(config).eval()
