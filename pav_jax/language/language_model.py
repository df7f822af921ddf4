"""A language model: architecture, parameters and tokenizer."""

import dataclasses
import functools
import itertools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints import gguf_writer
from pav_jax.checkpoints.tokenizers import save_tokenizer
from pav_jax.errors import BadInput
from pav_jax.language import chat, model_files, sampling, shipped_templates
from pav_jax.language.adapter_set import AdapterSet
from pav_jax.language.lora import LoraConfig, merge, with_lora
from pav_jax.language.samples import Sample
from pav_jax.language.scheduler import Sampler, shared_prefix
from pav_jax.models.decoder import Decoder, DecoderConfig, hf
from pav_jax.models.weights import params_to_hf
from pav_jax.parallel.attention import make_attention_fn
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.parallel.mesh import BATCH_AXES, batch_shards
from pav_jax.seeds import seeds_for_prompts
from pav_jax.storage.folders import output_folder
from pav_jax.storage.json_files import write_json

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model; load one with `from_pretrained`.

    Attributes:
      model: the architecture, a Flax module.
      params: nested dict, stacked over layers.
      config: the sizes of the model.
      tokenizer: a tokenizer of transformers, with a chat template.
      lora: the parameters of an adapter, or None.
      lora_config: the settings of the adapter, or None.
      adapters: named ones, of which calls with `adapter_names` use one for each row; see
        `merge_adapter`.
      name: what records call the model; never an absolute path.
      path: where it was loaded from: an absolute path, a Hub repository or "smollm2".
      eos: ids of the tokens that end an answer.
      generation: the fields of generation_config.json.
      batch_size: rows of each compiled batch of `generate`. More are faster for many prompts and
        slower for one. Fewer prompts are padded to it: a text does not depend on their number.
      mesh: the devices that the parameters are sharded over; None for one device.
    """

    model: Decoder
    params: dict
    config: DecoderConfig
    tokenizer: Any
    lora: dict | None = None
    lora_config: LoraConfig | None = None
    adapters: AdapterSet = dataclasses.field(default_factory=AdapterSet)
    name: str = "model"
    path: str = ""
    eos: tuple[int, ...] = ()
    generation: dict = dataclasses.field(default_factory=dict)
    batch_size: int = 16
    mesh: jax.sharding.Mesh | None = None
    _prefix_caches: dict = dataclasses.field(default_factory=dict, init=False)

    # -------------------------------------------------------------------------------------- loading

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike,
        dtype: str = "bfloat16",
        mesh: jax.sharding.Mesh | None = None,
        adapter: str | os.PathLike | None = None,
        batch_size: int = 16,
        attention: str = "auto",
    ) -> "LanguageModel":
        """Load a model with its tokenizer.

        Args:
          path_or_repo: a Hugging Face folder, a Hub repository (owner/name), a .gguf file,
            `mini:NAME`, or "smollm2".
          dtype: of the parameters and of the computation, "float32" or "bfloat16".
          mesh: the devices to shard the parameters over, by their logical axes.
          adapter: a PEFT LoRA folder or Hub repository; it is not merged into the parameters.
          batch_size: rows of each compiled batch of `generate`.
          attention: plain, splash (TPU), cudnn (GPU), or auto, which chooses by platform.

        Raises:
          BadInput: an argument is wrong, or the checkpoint is missing, incomplete or unsupported.
        """
        if dtype not in DTYPES:
            raise BadInput(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}", field="dtype")
        if batch_size < 1 or (mesh is not None and batch_size % batch_shards(mesh)):
            raise BadInput(
                f"batch_size={batch_size}: must be positive and a multiple of the mesh's"
                f" {'*'.join(BATCH_AXES)}",
                field="batch_size",
            )
        path = str(path_or_repo)
        config, params, tokenizer, generation = model_files.read_model(path, DTYPES[dtype], mesh)
        lm = cls(
            Decoder(
                config,
                DTYPES[dtype],
                make_attention_fn(attention, mesh),
                sum_experts_fn=make_sum_experts_fn(config.experts, mesh),
            ),
            params,
            config,
            tokenizer,
            name=model_files.model_name(path),
            path=model_files.location(path),
            eos=model_files.eos_ids(config, tokenizer, generation),
            generation=generation,
            batch_size=batch_size,
            mesh=mesh,
        )
        return lm if adapter is None else lm.with_lora(*model_files.read_adapter(adapter, config))

    def with_params(self, params: dict) -> "LanguageModel":
        """Return the model with other parameters and no adapter, as after a merge."""
        model = self.model.clone(lora_scale=1.0, lora_dropout=0.0)
        return dataclasses.replace(
            self, model=model, params=params, lora=None, lora_config=None, adapters=AdapterSet()
        )

    def with_lora(self, lora: dict, config: LoraConfig) -> "LanguageModel":
        """Return the model with an adapter."""
        model = with_lora(self.model, config)
        return dataclasses.replace(self, model=model, lora=lora, lora_config=config)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names that `adapter_names` of `generate` may contain, beside "__base__"."""
        return self.adapters.names

    def load_adapter(
        self, path_or_repo: str | os.PathLike, adapter_name: str, use_template: bool = True
    ) -> "LanguageModel":
        """Return the model, with the same parameters, and one more named adapter.

        Args:
          path_or_repo: a PEFT LoRA folder or Hub repository. `max_new_tokens` of a
            generation_config.json in it is the most tokens of its answers, in a booster.
          use_template: whether its chats are written in the chat template of its folder, if there
            is one, instead of the model's.

        Raises:
          BadInput: the name is taken, or the adapter is invalid or of another base model.
        """
        self.adapters.check_new_name(adapter_name)
        adapter = model_files.read_adapter(path_or_repo, self.config)
        base = (self.config, self.model.dtype, self.mesh)
        read = model_files.adapter_template
        template = read(path_or_repo, self.tokenizer) if use_template else None
        limit = model_files.adapter_sampling(path_or_repo).get("max_new_tokens")
        adapters = self.adapters.add(adapter_name, adapter, *base, template, limit)
        return dataclasses.replace(self, adapters=adapters)

    def merge_adapter(self, adapter_name: str) -> "LanguageModel":
        """Return the model with a named adapter in its parameters, where it costs no time.

        It keeps its name, and is used where a call names none. "__base__" and others still work.
        """
        params, adapters = self.adapters.merge(adapter_name, self.params)
        return dataclasses.replace(self, params=params, adapters=adapters)

    def delete_adapter(self, adapter_name: str) -> "LanguageModel":
        """Return the model without a named adapter."""
        params, adapters = self.adapters.remove(adapter_name, self.config, self.params)
        return dataclasses.replace(self, params=params, adapters=adapters)

    def with_template(self, template: str | Path) -> "LanguageModel":
        """Return the model with another chat template, which is saved with the model.

        Args:
          template: a jinja file, or "auto" for the shipped instruction to rewrite in the format of
            this model, see `shipped_templates`.

        Raises:
          BadInput: the file cannot be read, the template fails, or none is shipped for this model.
        """
        text = shipped_templates.read_template(template, self.tokenizer, self.config.model_type)
        lm = dataclasses.replace(self, tokenizer=chat.with_template(self.tokenizer, text))
        lm.prompt_ids("a dog runs")  # report a broken template now, not at the first prompt
        return lm

    def with_instruction(self, template: str | Path | None = None) -> "LanguageModel":
        """Return the model with a chat template that asks it to rewrite prompts.

        Args:
          template: as in `with_template`; "model" keeps the model's own. None keeps it too, unless
            it is that of a general model, without an instruction to rewrite: then the shipped one
            replaces it, with a warning.

        Raises:
          BadInput: as in `with_template`.
        """
        lacks = shipped_templates.lacks_instruction
        if template is None and lacks(self.tokenizer, self.config.model_type):
            warnings.warn(
                f"{self.path or self.name}: its chat template has no instruction to rewrite"
                " prompts; using the shipped one (template=model keeps its own)",
                stacklevel=3,
            )
            template = shipped_templates.AUTO
        keeps = template in (None, shipped_templates.MODEL)
        return self if keeps else self.with_template(template)

    @property
    def variables(self) -> dict:
        """The variables of `model.apply`: "params" and, with an adapter, "lora"."""
        return {"params": self.params} | ({} if self.lora is None else {"lora": self.lora})

    # ------------------------------------------------------------------------------------ computing

    def logits(
        self,
        input_ids: Int[Array | np.ndarray, "B T"],
        attention_mask: Int[Array | np.ndarray, "B T"] | None = None,
        adapter_names: str | Sequence[str] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return next-token logits in float32.

        Args:
          attention_mask: 1 for tokens, 0 for padding; positions are counted over tokens only.
          adapter_names: as in `generate`.
        """
        mask = None if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
        variables = self.variables
        if adapter_names is not None:
            names = self.adapters.check_rows(adapter_names, len(input_ids))
            variables = self.adapters.variables_of_rows({"params": self.params}, names)
        return _logits(self.model, variables, jnp.asarray(input_ids), mask)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the token ids of a user's prompt in the chat template, up to the answer."""
        return chat.encode(self.tokenizer, chat.user_chat(prompt))

    def generate(
        self,
        prompts: Sequence[str | chat.Chat],
        max_new_tokens: int = 250,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | Sequence[str] | None = None,
    ) -> list[list[str]]:
        """Generate texts.

        Args:
          prompts: strings to continue, or chats (lists of role/content messages) to answer.
          max_new_tokens, temperature, top_k, top_p, repetition_penalty: see `sampling.Sampling`.
          num_return_sequences: texts for each prompt.
          seed: one for all prompts or one each. A text depends only on its own prompt, seed and
            adapter.
          adapter_names: names from `load_adapter`, one for all prompts or one each; "__base__" uses
            none. With None all prompts use the merged adapter or `lora`, if there is one.

        Returns:
          `num_return_sequences` texts per prompt, without special tokens. An answer to a chat still
          has what the model thought, see `thoughts.without_thoughts`.

        Raises:
          BadInput: a prompt is empty, a setting is out of range, or an adapter is not loaded.
        """
        names = self.adapters.check_rows(adapter_names, len(prompts))
        prompt_ids = self.adapters.encode(self.tokenizer, prompts, names)
        settings = sampling.Sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty)
        answers = self.generate_ids(prompt_ids, settings, num_return_sequences, seed, adapter_names)
        return [
            chat.decode_answers(self.tokenizer, () if isinstance(prompt, str) else ids, texts)
            for prompt, ids, texts in zip(prompts, prompt_ids, answers, strict=True)
        ]

    def generate_ids(
        self,
        prompt_ids: Sequence[Sequence[int]],
        settings: sampling.Sampling,
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | Sequence[str] | None = None,
        log_probs: dict[Sample, float] | None = None,
    ) -> list[list[list[int]]]:
        """Generate token ids from token ids.

        An answer also ends at the end of the model's context. A prompt that does not leave
        `max_new_tokens`, or half of the context if that is less, is cut on the left.

        Args:
          prompt_ids: one list per prompt.
          settings: how tokens are drawn.
          num_return_sequences, seed, adapter_names: as in `generate`.
          log_probs: receives those of the samples, see `Sampler`; None: they are not computed.

        Returns:
          `num_return_sequences` lists of new token ids per prompt, with their ending token.

        Raises:
          BadInput: a prompt is empty, there are more or fewer seeds or names of adapters than
            prompts, or an adapter is not loaded.
        """
        seeds = seeds_for_prompts(seed, len(prompt_ids))
        adapters = None if adapter_names is None else self.adapters
        names = self.adapters.check_rows(adapter_names, len(prompt_ids))
        if num_return_sequences < 1:
            raise BadInput(
                f"num_return_sequences={num_return_sequences}: must be 1 or more",
                field="num_return_sequences",
            )
        max_prompt = self.max_prompt_tokens(settings.max_new_tokens)
        prompts = [list(ids)[-max_prompt:] for ids in prompt_ids]
        for i, ids in enumerate(prompts):
            if not ids:
                raise BadInput(f"prompt {i} is empty; write at least one word", field="prompts")
        samples = [
            [Sample(i, number, seeds[i], names[i]) for number in range(num_return_sequences)]
            for i in range(len(prompts))
        ]
        prefix = shared_prefix(self.tokenizer, prompts)
        sampler = self.make_sampler(settings, prefix, adapters, log_probs)
        answers = sampler(prompts, list(itertools.chain(*samples)))
        return [[answers[sample] for sample in group] for group in samples]

    def max_prompt_tokens(self, max_new_tokens: int) -> int:
        """How many tokens a prompt may have; `generate` cuts a longer one on the left."""
        context = self.config.max_position_embeddings
        return context - min(max_new_tokens, context // 2)

    def make_sampler(
        self,
        settings: sampling.Sampling,
        prefix: tuple[int, ...] = (),
        adapters: AdapterSet | None = None,
        log_probs: dict[Sample, float] | None = None,
    ) -> Sampler:
        """Return a sampler of this model.

        Args:
          settings, prefix, log_probs: see `Sampler`.
          adapters: those that samples choose from; None: all samples use `lora`, if there is one.
        """
        variables = self.variables if adapters is None else adapters.variables(self.params)
        options = (settings, self.eos, self.batch_size, prefix, self.mesh)
        caches = self._prefix_caches.setdefault((adapters is None, prefix), {})
        return Sampler(self.model, variables, *options, adapters or AdapterSet(), caches, log_probs)

    # --------------------------------------------------------------------------------------- saving

    def save_pretrained(
        self, folder: str | os.PathLike, max_shard_size: str = "5GB", merge_adapter: bool = True
    ) -> None:
        """Write a folder that `transformers.AutoModelForCausalLM` and `AutoTokenizer` load.

        Args:
          max_shard_size: the largest file of weights.
          merge_adapter: merge the adapter, if there is one, into the weights. With False only the
            adapter is written, for PEFT.
        """
        with output_folder(folder) as local:
            if self.lora is not None and not merge_adapter:
                assert self.lora_config is not None
                base = self.path or self.name
                model_files.write_adapter(local, self.lora, self.lora_config, self.config, base)
                return
            params = merge(self.params, self.lora, self.lora_config)
            folders.save(hf, local, self.config, params, max_shard_size)
            fields = model_files.generation_fields(self.config, self.eos, self.generation)
            write_json(local / "generation_config.json", fields)
            save_tokenizer(self.tokenizer, local)

    def save_gguf(self, path: str | Path, quantization: str = "bf16") -> None:
        """Write one .gguf file for llama.cpp, which `from_pretrained` also reads.

        An adapter is merged into the weights.

        Args:
          quantization: of the matrices: f32, f16, bf16, q8_0 or q4_0.
        """
        params = merge(self.params, self.lora, self.lora_config)
        tensors = params_to_hf(hf.weights(self.config), params)
        gguf_writer.write_gguf(path, self.config, tensors, self.tokenizer, self.name, quantization)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Decoder, variables: dict, input_ids_BxT: Array, mask_BxT: Array | None) -> Array:
    return cast(Array, model.apply(variables, input_ids_BxT, segment_ids_BxT=mask_BxT))
