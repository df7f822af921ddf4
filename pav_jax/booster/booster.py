"""The booster: the trained rewriter of prompts for video models."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from pav_jax.booster.adapter_folders import DEFAULT, shipped
from pav_jax.booster.guard import AUTO as AUTO_MODE
from pav_jax.booster.guard import OFF, Guard, Likelihood, Request
from pav_jax.booster.likelihood import log_likelihoods, with_drawn
from pav_jax.booster.replies import without_controls, without_unprintable
from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.adapter_set import BASE
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.large_models import is_large_on_cpu
from pav_jax.language.model_files import SMOLLM2
from pav_jax.language.sampling import Sampling
from pav_jax.language.scored_texts import generate_scored
from pav_jax.language.shipped_templates import AUTO, lacks_instruction
from pav_jax.models.int8_kernel import quantize_params
from pav_jax.records import Refinement, stable_seed
from pav_jax.seeds import seeds_for_prompts

MAX_PROMPT_CHARACTERS = 10_000
BATCH_SIZE = 4  # rewrites per compiled batch: users request a few at a time
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
      guard: what rewrites must keep.
      default_adapter: the adapter that rewrites where none is asked for; "__base__" for none.
    """

    language_model: LanguageModel
    sampling: Sampling = Sampling()
    guard: Guard = Guard(OFF)
    default_adapter: str = BASE

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path | None = None,
        dtype: str = "float32",
        template: str | Path | None = None,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = BATCH_SIZE,
        adapters: Mapping[str, str | Path] = MappingProxyType({}),
        guard: Guard | None = None,
        int8: bool | None = None,
    ) -> "Booster":
        """Load a booster.

        Sampling settings come from generation_config.json. Missing ones default to those of the
        method's training: temperature 1, top-k 50, at most 250 tokens.

        Args:
          path_or_repo: a trained booster (a Hugging Face folder or Hub repository), a .gguf file,
            `mini:NAME` or "smollm2". None loads smollm2 with the adapters that come with the
            package, one for each video model (`pav adapters list`); the default is "cogvideox".
          dtype: type of parameters and computation, "float32" or "bfloat16".
          template: chat template (a jinja file) that replaces the model's own, "auto" for the
            shipped instruction to rewrite, or "model" for the model's own; see
            `LanguageModel.with_instruction`.
          mesh: the devices to shard the parameters over.
          batch_size: rewrites in one compiled batch.
          adapters: PEFT LoRA folders or Hub repositories, by the names that `refine` calls them by.
            Each has the chat template of its folder, if there is one and `template` is None. A
            single one, or the default one of several, is merged into float32 parameters, so that
            it costs no time.
          guard: what rewrites must keep. None: `Guard()`; for the embedded models, whose few words
            are not those of real prompts, none.
          int8: quantize the weights and activations of matrix products to 8-bit integers, which
            takes a CPU less than half of the time. None: for a float32 model of 50 million
            parameters or more on one CPU.

        Raises:
          BadInput: the model, the template or an adapter is invalid, or `int8` is asked for with
            a mesh or another dtype than float32.
        """
        default = BASE
        if path_or_repo is None:
            adapters, default = {**shipped(), **adapters}, DEFAULT
        path = SMOLLM2 if path_or_repo is None else str(path_or_repo)
        lm = LanguageModel.from_pretrained(path, dtype=dtype, mesh=mesh, batch_size=batch_size)
        generation = lm.generation
        lacks = lacks_instruction(lm.tokenizer, lm.config.model_type)
        if lacks:
            generation = GENERAL_SAMPLING | generation
        is_known = path == SMOLLM2 or (lacks and adapters)  # to be a general model: no warning
        lm = lm.with_instruction(template or AUTO if is_known else template)
        for name, folder in adapters.items():
            lm = lm.load_adapter(folder, name, use_template=template is None)
        # others would be changed by rounding twice, or need a copy of sharded parameters
        merged = next(iter(adapters)) if len(adapters) == 1 else default
        if merged in adapters and dtype == "float32" and mesh is None:
            lm = lm.merge_adapter(merged)
        if int8 and dtype != "float32":
            raise BadInput(f"int8 with dtype={dtype!r}: use dtype='float32'", field="int8")
        if int8 and mesh is not None:
            raise BadInput("int8 on a mesh: leave one of them out", field="int8")
        if is_large_on_cpu(lm.params, mesh) if int8 is None else int8:
            lm = dataclasses.replace(lm, params=quantize_params(lm.params))
        if guard is None:
            guard = Guard(OFF if path.startswith(embedded.PREFIX) else AUTO_MODE)
        return cls(lm, _sampling(generation), guard, default)

    def refine(
        self,
        prompts: str | Sequence[str],
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | Sequence[str] | None = None,
        image: str | os.PathLike | Sequence[str | os.PathLike | None] | None = None,
        **guard: Any,
    ) -> list[list[Refinement]]:
        """Rewrite prompts.

        Args:
          prompts: short prompts; a single string counts as a list of one.
          num_return_sequences: rewrites of each prompt.
          seed: one seed for all prompts, or one per prompt. A rewrite depends only on its prompt
            and seed. With one seed for all, each prompt still draws its own random numbers.
          adapter_names: names of `adapters`, one for all prompts or one each; "__base__" uses
            none, and None for all prompts is `default_adapter`.
          image: path of the image that a video is to be made from, for all prompts; or one, or
            None, per prompt. The rewriter does not read it: `Refinement.image` has it, for the
            generator.
          **guard: fields of `Guard` that replace those of the booster's: mode, keep, fidelity,
            max_words, language, samples.

        Returns:
          One list of `num_return_sequences` rewrites per prompt, in order, without what the model
          thought. Where no rewrite is good enough, the prompt itself.

        Raises:
          BadInput: a prompt is empty or longer than 10,000 characters, there are more or fewer
            seeds, images or names of adapters than prompts, an adapter is not loaded, a field of
            the guard is wrong, or no prompt has a term of `keep`.
        """
        typed = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = seeds_for_prompts(seed, len(typed))
        images = _image_paths(image, len(typed))
        if adapter_names is None or isinstance(adapter_names, str):
            adapter_names = [adapter_names or self.default_adapter] * len(typed)
        names = zip(typed, seeds, adapter_names, strict=True)
        requests = [
            Request(_checked(prompt), s, None if name == BASE else name)
            for prompt, s, name in names
        ]
        drawn: dict[tuple[Request, str], float] = {}
        whole_guard = self.guard.with_fields(guard)
        if guard.get("keep") is not None:
            whole_guard.check_terms(typed)
        rewrites = whole_guard.refine(
            requests,
            functools.partial(self._samples, drawn=drawn),
            num_return_sequences,
            self.language_model.name,
            self._likelihood(drawn),
        )
        return [
            [_of_typed(refinement, prompt, path) for refinement in refinements]
            for prompt, path, refinements in zip(typed, images, rewrites, strict=True)
        ]

    def sampling_of(self, adapter: str | None) -> Sampling:
        """Return the sampling settings of an adapter: `sampling`, with the adapter's own
        `max_new_tokens` if its folder names one."""
        if adapter is None or not isinstance(self.language_model, LanguageModel):
            return self.sampling
        limit = self.language_model.adapters.limits.get(adapter, self.sampling.max_new_tokens)
        return dataclasses.replace(self.sampling, max_new_tokens=limit)

    def _likelihood(self, drawn: Mapping[tuple[Request, str], float]) -> Likelihood | None:
        """The likelihood of rewrites; None for models behind another server."""
        if isinstance(self.language_model, LanguageModel):
            compute = functools.partial(log_likelihoods, self.language_model)
        else:
            compute = getattr(self.language_model, "log_likelihoods", None)
        return compute and with_drawn(compute, drawn)

    def _samples(
        self,
        requests: Sequence[Request],
        num_samples: int,
        drawn: dict[tuple[Request, str], float],
    ) -> list[list[str]]:
        """Replies of the model; an engine of the guard.

        Args:
          drawn: receives the likelihood of each reply, where the model computes it.
        """
        places: dict[Sampling, list[int]] = {}
        for i, request in enumerate(requests):
            places.setdefault(self.sampling_of(request.adapter), []).append(i)
        replies: dict[int, list[str]] = {}
        for sampling, group in places.items():
            texts = self._draw([requests[i] for i in group], num_samples, sampling, drawn)
            replies |= zip(group, texts, strict=True)
        return [replies[i] for i in range(len(requests))]

    def _draw(
        self,
        requests: Sequence[Request],
        num_samples: int,
        sampling: Sampling,
        drawn: dict[tuple[Request, str], float],
    ) -> list[list[str]]:
        prompts = [clean(request.prompt) for request in requests]
        names = [request.adapter for request in requests]
        is_named = any(names) or getattr(self.language_model, "adapter_names", ())
        adapters = {"adapter_names": [name or BASE for name in names]} if is_named else {}
        chats = [chat.user_chat(prompt) for prompt in prompts]
        pairs = zip(requests, prompts, strict=True)
        seeds = [stable_seed(request.seed, prompt) for request, prompt in pairs]
        options = {"num_return_sequences": num_samples, "seed": seeds, **adapters}
        if isinstance(self.language_model, LanguageModel):
            generate = functools.partial(generate_scored, self.language_model)
        else:
            generate = getattr(self.language_model, "generate_scored", None)
        if generate is None:
            settings = dataclasses.asdict(sampling)
            return self.language_model.generate(chats, **options, **settings)
        replies, log_probs = generate(chats, sampling, **options)
        for request, texts, values in zip(requests, replies, log_probs, strict=True):
            scored = zip(texts, values, strict=True)
            drawn.update({(request, text.strip()): value for text, value in scored})
        return replies


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
    text = without_controls(prompt).strip()
    if not text:
        raise BadInput("the prompt is empty; write at least one word", field="prompts")
    return text


def _checked(prompt: str) -> str:
    """A prompt that `clean` accepts, in the lines that were typed: they tell a structured one."""
    clean(prompt)
    return without_unprintable(prompt)


def _of_typed(refinement: Refinement, typed: str, image: str | None) -> Refinement:
    """A rewrite with the prompt that was rewritten, the one that was typed and its image."""
    return dataclasses.replace(refinement, prompt=clean(typed), original=typed, image=image)


def _image_paths(image: Any, count: int) -> list[str | None]:
    """One path, or None, for each of `count` prompts."""
    if image is None or isinstance(image, str | os.PathLike):
        image = [image] * count
    if len(image) != count:
        raise BadInput(
            f"image: {len(image)} images for {count} prompts; give one, or one or None per prompt",
            field="image",
        )
    return [None if path is None else os.fspath(path) for path in image]


def _sampling(generation: dict[str, Any]) -> Sampling:
    """Return the sampling settings of a parsed generation_config.json."""
    names = [field.name for field in dataclasses.fields(Sampling)]
    values = {name: generation[name] for name in names if generation.get(name) is not None}
    if generation.get("do_sample") is False:
        values["temperature"] = 0.0
    return Sampling(**values)
