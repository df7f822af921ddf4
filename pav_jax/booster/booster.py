"""The booster: the trained rewriter of prompts for video models."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.adapter_set import BASE
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.model_files import SMOLLM2
from pav_jax.language.sampling import Sampling
from pav_jax.language.shipped_templates import AUTO, lacks_instruction
from pav_jax.language.thoughts import without_thoughts
from pav_jax.records import Refinement, stable_seed
from pav_jax.seeds import seeds_for_prompts

MAX_PROMPT_CHARACTERS = 10_000
BATCH_SIZE = 4  # rewrites per compiled batch: users request a few at a time
WHITESPACE_CONTROLS = "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85"
# Defaults for a general model, whose own template has no instruction to rewrite: with others it
# answers the prompt or repeats itself.
GENERAL_SAMPLING = {
    "temperature": 0.6,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "max_new_tokens": 150,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Booster:
    """A language model that rewrites prompts; load one with `from_pretrained`.

    Attributes:
      language_model: its tokenizer's chat template contains the instruction to rewrite.
      sampling: sampling settings.
    """

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
        adapters: Mapping[str, str | Path] = MappingProxyType({}),
    ) -> "Booster":
        """Load a booster.

        Sampling settings come from generation_config.json. Missing ones default to those of the
        method's training: temperature 1, top-k 50, at most 250 tokens.

        Args:
          path_or_repo: a trained booster (a Hugging Face folder or Hub repository), a .gguf file,
            `mini:NAME` or "smollm2"; None loads the booster embedded in the package.
          dtype: type of parameters and computation, "float32" or "bfloat16".
          template: chat template (a jinja file) that replaces the model's own, "auto" for the
            shipped instruction to rewrite, or "model" for the model's own; see
            `LanguageModel.with_instruction`.
          mesh: the devices to shard the parameters over.
          batch_size: rewrites in one compiled batch.
          adapters: PEFT LoRA folders or Hub repositories, by the names that `refine` calls them by.
            Each has the chat template of its folder, if there is one and `template` is None.

        Raises:
          BadInput: the model, the template or an adapter is invalid.
        """
        path = embedded.default_booster() if path_or_repo is None else str(path_or_repo)
        lm = LanguageModel.from_pretrained(path, dtype=dtype, mesh=mesh, batch_size=batch_size)
        generation = lm.generation
        lacks = lacks_instruction(lm.tokenizer, lm.config.model_type)
        if lacks:
            generation = GENERAL_SAMPLING | generation
        is_known = path == SMOLLM2 or (lacks and adapters)  # to be a general model: no warning
        lm = lm.with_instruction(template or AUTO if is_known else template)
        for name, folder in adapters.items():
            lm = lm.load_adapter(folder, name, use_template=template is None)
        return cls(lm, _sampling(generation))

    def refine(
        self,
        prompts: str | Sequence[str],
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | Sequence[str] | None = None,
    ) -> list[list[Refinement]]:
        """Rewrite prompts.

        Args:
          prompts: short prompts; a single string counts as a list of one.
          num_return_sequences: rewrites of each prompt.
          seed: one seed for all prompts, or one per prompt. A rewrite depends only on its prompt
            and seed. With one seed for all, each prompt still draws its own random numbers.
          adapter_names: names of `adapters`, one for all prompts or one each; "__base__", and
            None for all prompts, use none.

        Returns:
          One list of `num_return_sequences` rewrites per prompt, in order, without what the model
          thought. An empty reply, or a thought that does not end, is replaced by the prompt itself.

        Raises:
          BadInput: a prompt is empty or longer than 10,000 characters, there are more or fewer
            seeds or names of adapters than prompts, or an adapter is not loaded.
        """
        prompts = [clean(p) for p in ([prompts] if isinstance(prompts, str) else prompts)]
        seeds = seeds_for_prompts(seed, len(prompts))
        texts = self.language_model.generate(
            [chat.user_chat(prompt) for prompt in prompts],
            num_return_sequences=num_return_sequences,
            seed=[stable_seed(s, prompt) for s, prompt in zip(seeds, prompts, strict=True)],
            **({} if adapter_names is None else {"adapter_names": adapter_names}),
            **dataclasses.asdict(self.sampling),
        )
        if adapter_names is None or isinstance(adapter_names, str):
            adapter_names = [adapter_names or BASE] * len(prompts)
        adapters = [None if name == BASE else name for name in adapter_names]
        name = self.language_model.name
        return [
            [Refinement(prompt, read_reply(text) or prompt, s, name, adapter) for text in replies]
            for prompt, s, adapter, replies in zip(prompts, seeds, adapters, texts, strict=True)
        ]


def read_reply(reply: str) -> str:
    """Return the rewrite in a model's reply; empty if there is none."""
    return _without_controls(without_thoughts(reply)).strip()


def clean(prompt: str) -> str:
    """Strip control characters and surrounding whitespace; keep markup and emoji.

    Raises:
      BadInput: the prompt is empty or too long.
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise BadInput(
            f"the prompt has {len(prompt):,} characters; shorten it to {MAX_PROMPT_CHARACTERS:,}",
            field="prompts",
        )
    text = _without_controls(prompt).strip()
    if not text:
        raise BadInput("the prompt is empty; write at least one word", field="prompts")
    return text


def _sampling(generation: dict[str, Any]) -> Sampling:
    """Return the sampling settings of a parsed generation_config.json."""
    names = [field.name for field in dataclasses.fields(Sampling)]
    values = {name: generation[name] for name in names if generation.get(name) is not None}
    if generation.get("do_sample") is False:
        values["temperature"] = 0.0
    return Sampling(**values)


def _without_controls(text: str) -> str:
    """Replace whitespace controls with spaces; drop other controls and lone surrogates.

    Tokenizers reject lone surrogates.
    """
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character in WHITESPACE_CONTROLS:
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cs") else character
