"""Fields of JSON files as dataclasses."""

import dataclasses
from typing import Annotated, Any, Literal

import pytest

from pav_jax.errors import BadInput
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.decoder import hf as llama_hf
from pav_jax.models.opensora import stdit_hf
from pav_jax.models.opensora import vae_hf as opensora_vae_hf
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.wan import transformer_hf as wan_hf
from pav_jax.models.wan import vae_hf as wan_vae_hf
from pav_jax.typed_fields import Fraction, Length, Range, read_fields
from pav_jax.video import schedulers

HUGE = 10**400
NAN = float("nan")
INFINITY = float("inf")


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int
    share: Fraction = 0.1
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    text: str | None = None
    ids: Annotated[int, Range(0)] | tuple[int, ...] | None = None
    sides: tuple[int, int] = (1, 2)
    widths: Annotated[tuple[int, ...], Length(1, 3)] = (4,)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()


def test_read_fields_valid_values():
    values = {
        "size": 3,
        "share": 1,
        "kind": "b",
        "flag": True,
        "text": None,
        "ids": [5, 6],
        "sides": [7, 8],
        "widths": [1, 2],
        "table": {"a": 1},
        "inner": {"rate": 2},
        "unknown": [{}],
    }
    expected = Outer(3, 1.0, "b", True, None, (5, 6), (7, 8), (1, 2), {"a": 1}, Inner(2.0))
    assert read_fields(Outer, values, "x.json") == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [({"size": wrong}, "size") for wrong in (None, "3", 3.0, True, 0, -1, HUGE, 2**31, NAN, [], {})]
    + [({"share": wrong}, "share") for wrong in (None, "x", True, NAN, INFINITY, HUGE, -0.1, 1.5)]
    + [({"kind": wrong}, "kind") for wrong in (None, "c", 1, ["a"], {})]
    + [({"flag": wrong}, "flag") for wrong in (None, 0, "true", [])]
    + [({"text": wrong}, "text") for wrong in (1, ["a"], {}, "a\0b")]
    + [({"ids": wrong}, "ids") for wrong in (-1, "x", {}, True)]
    + [({"ids": [1, "x"]}, "ids[1]"), ({"sides": [1, 0]}, "sides[1]")]
    + [({"sides": wrong}, "sides") for wrong in (None, 1, [1], [1, 2, 3], "12", {})]
    + [({"widths": wrong}, "widths") for wrong in ([], [1] * 4, [1] * 10**6)]
    + [({"table": []}, "table"), ({"table": {"a": "x"}}, "table.a")]
    + [({"inner": wrong}, "inner") for wrong in (None, [], 1)]
    + [({"inner": {"rate": "x"}}, "inner.rate")],
)
def test_read_fields_wrong_value(change, field):
    with pytest.raises(BadInput) as error:
        read_fields(Outer, {"size": 1} | change, "x.json")
    assert (error.value.source, error.value.field) == ("x.json", field)
    assert field in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("content", [None, [], 3, "x"])
def test_read_fields_no_object(content):
    with pytest.raises(BadInput, match="JSON object"):
        read_fields(Outer, content, "x.json")


def test_read_fields_missing_field():
    with pytest.raises(BadInput) as error:
        read_fields(Outer, {}, "x.json", "part")
    assert error.value.field == "part.size"


LLAMA = llama_hf.config_to_hf(DecoderConfig(64, 32, 40, 2, 4, 2, 8, eos_token_id=2))
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2}
# reader -> (a valid file, the fields that are read)
READERS: dict[str, tuple[Any, dict, tuple[str, ...]]] = {
    "llama": (
        llama_hf.config_from_hf,
        LLAMA,
        ("vocab_size", "num_hidden_layers", "head_dim", "rms_norm_eps", "rope_theta"),
    ),
    "clip": (clip_hf.config_from_hf, {}, ("projection_dim",)),
    "t5": (t5_hf.config_from_hf, T5, ("d_model", "num_layers", "layer_norm_epsilon")),
    "cogvideox": (
        transformer_hf.config_from_hf,
        {},
        ("num_layers", "attention_head_dim", "norm_eps", "patch_size", "sample_frames"),
    ),
    "cogvideox_vae": (
        vae_hf.config_from_hf,
        {},
        ("block_out_channels", "scaling_factor", "act_fn", "use_quant_conv"),
    ),
    "wan": (wan_hf.config_from_hf, {}, ("patch_size", "num_layers", "eps")),
    "wan_vae": (wan_vae_hf.config_from_hf, {}, ("dim_mult", "z_dim", "latents_std")),
    "stdit": (stdit_hf.config_from_hf, {}, ("hidden_size", "mlp_ratio", "patch_size")),
    "opensora_vae": (opensora_vae_hf.config_from_hf, {}, ("vae_2d", "shift", "micro_frame_size")),
    **{
        name: (schedulers.load, {"_class_name": name} | more, ("num_train_timesteps", field))
        for name, more, field in (
            ("CogVideoXDDIMScheduler", {}, "beta_start"),
            ("CogVideoXDPMScheduler", {}, "trained_betas"),
            ("FlowMatchEulerDiscreteScheduler", {}, "shift"),
            (
                "UniPCMultistepScheduler",
                {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
                "solver_order",
            ),
        )
    },
}


@pytest.mark.parametrize(
    ("reader", "field"), [(name, field) for name, row in READERS.items() for field in row[2]]
)
def test_readers_of_model_files_wrong_value(reader, field):
    read, valid, _ = READERS[reader]
    read(valid, "x.json")
    for wrong in ("x", -1, HUGE, NAN, [None], {"a": {}}, [[]]):
        with pytest.raises(BadInput) as error:
            read(valid | {field: wrong}, "x.json")
        assert error.value.source == "x.json"
        assert field in str(error.value)


@pytest.mark.parametrize("wrong", ["x", 1, [None], {"num_hidden_layers": 10**6}])
@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_clip_config_from_hf_wrong_section(section, wrong):
    with pytest.raises(BadInput, match=section):
        clip_hf.config_from_hf({section: wrong}, "x.json")
