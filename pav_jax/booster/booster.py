"""The booster: what training gives and users keep. It turns a short prompt into one a video model
answers better."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import jax

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.language_model import SMOLLM2, LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement, stable_seed

LONGEST_PROMPT = 10_000  # characters
BATCH_SIZE = 4  # rows of a compiled batch: people ask for a few rewrites at a time
# A general model has no instruction in its own template, and loops or answers instead of rewriting
# without these.
GENERAL_TEMPLATE = Path(__file__).parents[1] / "language" / "templates" / "rewriter_chatml.jinja"
GENERAL_SAMPLING = {
    "temperature": 0.6,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "max_new_tokens": 150,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Booster:
    """Make one with `from_pretrained`. The instruction to the model is part of its tokenizer's chat
    template."""

    language_model: LanguageModel
    sampling: Sampling = Sampling()

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path | None = None,
        dtype: str = "float32",
        template: str | Path | None = None,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> "Booster":
        """Loads a trained booster (a Hugging Face folder or hub id), a .gguf file, "smollm2", or,
        with None, the embedded one.

        Args:
          template: a chat template file (jinja) that replaces the model's own.

        Sampling follows the model's generation_config.json where that names a value, else the
        method's training: temperature 1, top-k 50, at most 250 tokens.
        """
        path = embedded.default_booster() if path_or_repo is None else str(path_or_repo)
        lm = LanguageModel.from_pretrained(path, dtype=dtype, mesh=mesh, batch_size=batch_size)
        defaults = lm.generation
        if path == SMOLLM2:
            defaults, template = GENERAL_SAMPLING, template or GENERAL_TEMPLATE
        if template is not None:
            lm = lm.with_template(template)
        names = [f.name for f in dataclasses.fields(Sampling)]
        chosen = {name: defaults[name] for name in names if defaults.get(name) is not None}
        if defaults.get("do_sample") is False:
            chosen["temperature"] = 0.0
        return cls(lm, Sampling(**chosen))

    def refine(
        self,
        prompts: str | Sequence[str],
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
    ) -> list[list[Refinement]]:
        """Rewrites prompts.

        Args:
          prompts: short prompts; a single string counts as a list of one.
          num_return_sequences: rewrites of each prompt.
          seed: one for all prompts or one each. A rewrite depends only on its own prompt and seed.
            With one seed for all, each prompt still draws its own random numbers.

        Returns:
          One list of `num_return_sequences` rewrites per prompt, in order. An empty answer of the
          model is replaced by the prompt itself.

        Raises:
          BadInput: a prompt is empty or longer than 10,000 characters.
        """
        prompts = [clean(p) for p in ([prompts] if isinstance(prompts, str) else prompts)]
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        draws = [stable_seed(s, p) for s, p in zip(seeds, prompts, strict=True)]
        answers = self.language_model.generate(
            [chat.user_chat(p) for p in prompts],
            num_return_sequences=num_return_sequences,
            seed=draws,
            **dataclasses.asdict(self.sampling),
        )
        return [
            [
                Refinement(
                    prompt,
                    _without_controls(answer).strip() or prompt,
                    int(prompt_seed),
                    self.language_model.name,
                )
                for answer in texts
            ]
            for prompt, texts, prompt_seed in zip(prompts, answers, seeds, strict=True)
        ]


def clean(prompt: str) -> str:
    """The prompt without control characters and outer blanks; markup and emoji stay.

    Raises:
      BadInput: nothing is left, or it is too long.
    """
    if len(prompt) > LONGEST_PROMPT:
        raise BadInput(
            f"a prompt of {len(prompt):,} characters; the most is {LONGEST_PROMPT:,}, shorten it"
        )
    text = _without_controls(prompt).strip()
    if not text:
        raise BadInput("the prompt is empty; write at least one word")
    return text


def _without_controls(text: str) -> str:
    """White-space controls become blanks; other controls and lone surrogates, which no tokenizer
    takes, go."""
    kept = (
        (
            " "
            if c in "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85"
            else ""
            if unicodedata.category(c) in ("Cc", "Cs")
            else c
        )
        for c in text
    )
    return "".join(kept)
