"""How checkpoints of one family are read and written: fields of config.json, and tensors."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pav_jax.errors import BadInput
from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.families.tensors import standard_weights
from pav_jax.models.decoder.rotary import SCALINGS, Rope
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.weights import Weight
from pav_jax.typed_fields import Depth, Range, check_object, read_fields, read_value

LayerIndex = Annotated[int, Range(0, 10**6)]  # 0 before the first layer
# fields of the same name and meaning in every family, which may be left out or set to null
OPTIONAL = (
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_act",
)
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """How checkpoints of one `model_type` are read and written.

    Attributes:
      model_type: the field of config.json.
      architecture: the class of transformers.
      read: (fields of config.json, file name for errors) -> configuration.
      write: configuration -> the fields beyond those that all families share, under the names of
        transformers 4, which version 5 also reads.
      weights: configuration -> table of tensors.
    """

    model_type: str
    architecture: str
    read: Callable[[Mapping[str, Any], str], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    weights: Callable[[DecoderConfig], list[Weight]] = standard_weights


@dataclasses.dataclass(frozen=True)
class RequiredSizes:
    """The fields that every config.json has."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Depth
    num_attention_heads: int


def read_config(
    fields: Mapping[str, Any],
    source: str,
    model_type: str,
    defaults: Mapping[str, Any] | None = None,
    **switches: Any,
) -> DecoderConfig:
    """Make a configuration of the fields that all families share, and of a family's own.

    Args:
      fields: of config.json.
      source: the file's name in errors.
      defaults: of the family for fields that the file leaves out.
      **switches: fields of `DecoderConfig` that the family has read itself.

    Raises:
      BadInput: a field is missing, of another type or out of range, or two contradict each other.
    """
    fields = {**(defaults or {}), **{k: v for k, v in fields.items() if v is not None}}
    sizes = read_fields(RequiredSizes, fields, source)
    heads = sizes.num_attention_heads
    values = {name: fields[name] for name in OPTIONAL if name in fields}
    values |= dataclasses.asdict(sizes)
    values["num_key_value_heads"] = fields.get("num_key_value_heads") or heads
    values["head_dim"] = fields.get("head_dim") or sizes.hidden_size // heads
    config = read_fields(DecoderConfig, values, source)
    config = dataclasses.replace(config, model_type=model_type, **switches)
    _check_sizes(config, source)
    return config


def _check_sizes(config: DecoderConfig, source: str) -> None:
    """Check what fields say about each other."""
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads
    field = None
    if heads % kv_heads:
        field = "num_key_value_heads"
        problem = f"is {kv_heads}; it must divide num_attention_heads={heads}"
    elif config.head_dim % 2:
        field = "head_dim"
        problem = f"is {config.head_dim}; rotary positions need an even one"
    elif config.hidden_act not in ACTIVATIONS:
        field = "hidden_act"
        problem = f"is {config.hidden_act!r}; supported are {', '.join(sorted(ACTIVATIONS))}"
    if field is not None:
        raise BadInput(f"{source}: {field} {problem}", source=source, field=field)


def read_flag(fields: Mapping[str, Any], name: str, source: str) -> bool:
    """Return a field that is true or false; false without it."""
    value = fields.get(name)
    return False if value is None else read_value(value, bool, source, name)


def read_integer(
    fields: Mapping[str, Any], name: str, source: str, default: int | None = None
) -> int | None:
    """Return a field that is a size, or `default` if it is null or left out."""
    value = fields.get(name)
    return default if value is None else read_value(value, int, source, name)


def refuse(fields: Mapping[str, Any], name: str, source: str, reason: str) -> None:
    """Refuse a file that sets the field `name` to something that is not supported.

    Raises:
      BadInput: the field is neither null, false, 0 nor empty.
    """
    if fields.get(name):
        raise BadInput(
            f"{source}: {name} is {str(fields[name])[:60]}; {reason}", source=source, field=name
        )


def read_rope(
    fields: Mapping[str, Any],
    source: str,
    default_theta: float = 10000.0,
    theta: str = "rope_theta",
) -> Rope:
    """Read rotary positions from `rope_parameters` (transformers 5), or `rope_theta` and
    `rope_scaling` (version 4).

    Args:
      theta: name of version 4's field of the base.
    """
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    parameters = check_object(fields.get(section) or {}, source, section)
    fields = {**fields, theta: fields.get(theta) or default_theta}
    return make_rope(parameters, theta, source, section, fields)


def make_rope(
    parameters: Mapping[str, Any],
    theta: str,
    source: str,
    section: str,
    fields: Mapping[str, Any],
) -> Rope:
    """Make rotary positions of one object of parameters.

    Args:
      parameters: the object `section` of config.json; its `rope_theta` comes first.
      theta: the field of config.json with the base, if `parameters` has none.
      fields: of config.json.

    Raises:
      BadInput: the type is not supported, or a parameter is missing or out of range.
    """
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if parameters.get("rope_theta"):
        base = {"rope_theta": parameters["rope_theta"]}
        rope = read_fields(Rope, base, source, section, names={"theta": "rope_theta"})
    else:
        rope = read_fields(Rope, {theta: fields[theta]}, source, names={"theta": theta})
    if kind == "default":
        return rope
    if kind not in SCALINGS:
        raise BadInput(
            f"{source}: rope_type is {str(kind)[:60]!r}; supported are default,"
            f" {', '.join(SCALINGS)}",
            source=source,
            field="rope_type",
        )
    values = {name: value for name, value in parameters.items() if value is not None}
    if kind == "yarn":
        length = fields.get("max_position_embeddings")
        values.setdefault("original_max_position_embeddings", length)
    return dataclasses.replace(rope, scaling=read_fields(SCALINGS[kind], values, source, section))


def write_rope(rope: Rope) -> dict[str, Any]:
    """Return the fields of `read_rope` under version 4's names."""
    if rope.scaling is None:
        return {"rope_theta": rope.theta, "rope_scaling": None}
    kind = next(name for name, cls in SCALINGS.items() if isinstance(rope.scaling, cls))
    values = {k: v for k, v in dataclasses.asdict(rope.scaling).items() if v is not None}
    return {"rope_theta": rope.theta, "rope_scaling": {"rope_type": kind, **values}}


def read_layer_types(
    fields: Mapping[str, Any], source: str, num_layers: int
) -> Sequence[str] | None:
    """Return `layer_types`, one per layer; None without it.

    Raises:
      BadInput: another number of entries than layers, or a type that is not supported.
    """
    if fields.get("layer_types") is None:
        return None
    types = read_value(fields["layer_types"], tuple[str, ...], source, "layer_types")
    supported = ("full_attention", "sliding_attention")
    if unknown := [name for name in types if name not in supported]:
        problem = f"has {unknown[0][:60]!r}; supported are {', '.join(supported)}"
    elif len(types) != num_layers:
        problem = f"has {len(types)} entries; num_hidden_layers is {num_layers}"
    else:
        return types
    raise BadInput(f"{source}: layer_types {problem}", source=source, field="layer_types")
