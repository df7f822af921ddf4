"""The words and the Llama configuration of the comparisons with TRL."""

WORDS = ["<pad>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
LLAMA = dict(
    vocab_size=len(WORDS),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=None,
    initializer_range=0.3,
)
