"""Tiny tokenizers with the special tokens and templates of published families."""

import dataclasses

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

THINKING_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
CHATML = THINKING_CHATML.split("{% if enable_thinking")[0] + "{% endif %}"


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A tokenizer as a family publishes it.

    Attributes:
      model_type: of config.json.
      shipped: the file of the shipped instruction.
      tokens: special tokens of chats.
      bos, eos: special tokens, of which bos may be missing.
      adds_bos: whether plain text begins with the bos token.
      template: the model's own.
      plain_tokens: tokens that are not special, as Qwen3's marks of thoughts.
    """

    model_type: str
    shipped: str
    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    adds_bos: bool
    template: str = "{{ bos_token }}{{ messages[0].content }}"
    plain_tokens: tuple[str, ...] = ()


IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
FORMATS = {
    "llama3": ChatFormat(
        "llama",
        "llama3",
        ("<|start_header_id|>", "<|end_header_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        True,
    ),
    "smollm2": ChatFormat("llama", "chatml", IM, "<|im_start|>", "<|im_end|>", False, CHATML),
    "qwen2": ChatFormat("qwen2", "chatml", IM, None, "<|im_end|>", False, CHATML),
    "qwen3": ChatFormat(
        "qwen3", "chatml_thinking", IM, None, "<|im_end|>", False, THINKING_CHATML, THINK
    ),
    "smollm3": ChatFormat(
        "smollm3",
        "chatml_thinking",
        IM,
        "<|begin_of_text|>",
        "<|im_end|>",
        False,
        THINKING_CHATML,
        THINK,
    ),
    "mistral": ChatFormat("mistral", "mistral", ("[INST]", "[/INST]"), "<s>", "</s>", True),
    "mistral_v1": ChatFormat("mistral", "mistral", (), "<s>", "</s>", True),
    "gemma3": ChatFormat(
        "gemma3_text", "gemma", ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", True
    ),
    "phi3": ChatFormat("phi3", "phi3", PHI, "<s>", "<|endoftext|>", False),
    "phi4": ChatFormat("phi3", "phi4", (*IM, "<|im_sep|>"), "<|endoftext|>", "<|im_end|>", False),
}


def chat_tokenizer(chat_format: ChatFormat) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer in this format."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bos = chat_format.bos
    names = (bos, chat_format.eos, *chat_format.tokens)
    bpe.add_special_tokens(list(dict.fromkeys(name for name in names if name)))
    bpe.add_tokens(list(chat_format.plain_tokens))
    if chat_format.adds_bos and bos is not None:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=chat_format.eos,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_format.template
    return tokenizer
