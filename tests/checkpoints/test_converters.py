"""Conversion of published reward models: tiny random files of the same layouts, and the two real
heads if they are on this machine."""

import os
import sys
import types

import jax
import numpy as np
import pytest

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints import open_clip
from pav_jax.checkpoints.converters import convert
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.models.mps import CrossConfig
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.weights import params_to_hf
from pav_jax.rewards import aesthetic
from pav_jax.storage.json_files import read_json, write_json
from tests.absent import shared_file

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

HEADS = {
    "sa_0_4_vit_l_14_linear.pth": ("linear", ()),
    "sac+logos+ava1-l14-linearMSE.pth": ("mlp", (1024, 128, 64, 16)),
}


# ---------------------------------------------------------------------------------- aesthetic heads


@pytest.mark.parametrize("name", HEADS)
def test_convert_published_aesthetic_head(name, tmp_path, capsys):
    file = shared_file(f"aesthetic_heads/{name}")
    out = tmp_path / "head"
    assert main(["export", f"--from={file}", "--to=pav", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    config, params = aesthetic.load_head(out)
    assert (config.kind, config.hidden_dims, config.input_dim) == (*HEADS[name], 768)
    x = np.random.default_rng(0).normal(size=(8, 768)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = torch.from_numpy(x)
    tensors = torch.load(file, weights_only=True, map_location="cpu")
    for layer in [key.removesuffix("weight") for key in tensors if key.endswith("weight")]:
        weight, bias = (tensors[f"{layer}{kind}"].float() for kind in ("weight", "bias"))
        expected = torch.nn.functional.linear(expected, weight, bias)
    ours = jax.jit(aesthetic.AestheticHead(config).apply)({"params": params}, x)
    np.testing.assert_allclose(ours, expected[:, 0].numpy(), rtol=1e-5, atol=1e-5)


def test_convert_aesthetic_head_bad_layers(tmp_path):
    file = tmp_path / "head.pth"
    for shapes, reason in (
        ({0: (5, 6), 1: (1, 4)}, "do not compose to a scalar head"),
        ({0: (1, 6), 3: (1, 1)}, "numbered"),
    ):
        torch.save(
            {
                f"layers.{i}.{kind}": torch.zeros(shape if kind == "weight" else shape[:1])
                for i, shape in shapes.items()
                for kind in ("weight", "bias")
            },
            file,
        )
        with pytest.raises(BadInput, match=reason):
            convert(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------- CLIP and MPS


def tiny_clip(activation="gelu"):
    """transformers' CLIP with the head widths and special tokens of the real models."""
    torch.manual_seed(0)
    tower = dict(num_hidden_layers=2, intermediate_size=24, hidden_act=activation)
    text = tower | dict(
        hidden_size=64,
        num_attention_heads=1,
        vocab_size=20,
        max_position_embeddings=7,
        bos_token_id=18,
        eos_token_id=19,
    )
    vision = tower | dict(hidden_size=128, num_attention_heads=2, image_size=12, patch_size=4)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def as_open_clip(state):
    """A state dict in open_clip's layout: transposed projections; query, key and value in one."""
    renamed = {
        "logit_scale": state["logit_scale"],
        "attn_mask": torch.zeros(7, 7),
        "text_projection": state["text_projection.weight"].T,
        "visual.proj": state["visual_projection.weight"].T,
    }
    for side, prefix in (("text", ""), ("vision", "visual.")):
        model = f"{side}_model."
        renamed[f"{prefix}positional_embedding"] = state[
            f"{model}embeddings.position_embedding.weight"
        ]
        for i in range(2):
            layer = f"{model}encoder.layers.{i}."
            block = f"{prefix}transformer.resblocks.{i}."
            for kind in ("weight", "bias"):
                renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(
                    [state[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                )
                for theirs, hf in (
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                    ("attn.out_proj", "self_attn.out_proj"),
                ):
                    renamed[f"{block}{theirs}.{kind}"] = state[f"{layer}{hf}.{kind}"]
    for theirs, hf in (
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        renamed |= {f"{theirs}.{kind}": state[f"{hf}.{kind}"] for kind in ("weight", "bias")}
    renamed["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    renamed["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    renamed["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    return renamed


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_convert_open_clip_matches_transformers(activation, tmp_path):
    theirs = tiny_clip(activation)
    torch.save(
        {
            "epoch": 3,
            "state_dict": {f"module.{k}": v for k, v in as_open_clip(theirs.state_dict()).items()},
        },
        tmp_path / "open_clip.pt",
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    assert convert(tmp_path / "open_clip.pt", tmp_path / "out", activation=activation) == []
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    config, params = folders.load(clip_hf, tmp_path / "out")
    theirs.save_pretrained(tmp_path / "theirs")
    jax.tree.map(
        np.testing.assert_array_equal, params, folders.load(clip_hf, tmp_path / "theirs")[1]
    )
    ids = np.array([[18, 4, 5, 19, 0, 0, 0], [18, 7, 8, 9, 10, 11, 19]])
    pixels = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    text, image, scale = jax.jit(CLIP(config).apply)({"params": params}, ids, pixels)
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(ids), torch.from_numpy(pixels.transpose(0, 3, 1, 2))
        ).logits_per_text
    np.testing.assert_allclose(
        float(scale) * unit(text) @ unit(image).T, expected.numpy(), rtol=0, atol=1e-4
    )


def test_convert_open_clip_activation(tmp_path):
    tensors = as_open_clip(tiny_clip().state_dict())
    torch.save(tensors, tmp_path / "a.pt")
    remarks = convert(tmp_path / "a.pt", tmp_path / "guessed")
    assert len(remarks) == 2
    assert "--activation=quick_gelu" in remarks[0]
    assert "tokenizer" in remarks[1]
    sizes = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(tensors | sizes, tmp_path / "openai.pt")
    assert len(convert(tmp_path / "openai.pt", tmp_path / "openai")) == 1
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": {"quick_gelu": True}})
    assert len(convert(tmp_path / "a.pt", tmp_path / "from_config")) == 1
    activations = [
        read_json(tmp_path / name / "config.json")["vision_config"]["hidden_act"]
        for name in ("guessed", "openai", "from_config")
    ]
    assert activations == ["gelu", "quick_gelu", "quick_gelu"]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("mark", ["sizes", "open_clip_config.json"])
def test_convert_open_clip_activation_that_contradicts_the_file(activation, mark, tmp_path):
    tensors = as_open_clip(tiny_clip().state_dict())
    names = open_clip.OPENAI_SIZES if mark == "sizes" else ()
    torch.save(tensors | {name: torch.tensor(7) for name in names}, tmp_path / "a.pt")
    if mark != "sizes":
        write_json(tmp_path / mark, {"model_cfg": {"quick_gelu": True}})
    remarks = convert(tmp_path / "a.pt", tmp_path / "out", activation=activation)
    contradictions = [remark for remark in remarks if "whose activation is quick_gelu" in remark]
    assert len(contradictions) == (activation == "gelu")
    config = read_json(tmp_path / "out" / "config.json")
    assert config["vision_config"]["hidden_act"] == activation  # what the user says


def test_convert_open_clip_unsupported_tensors(tmp_path):
    tensors = as_open_clip(tiny_clip().state_dict())
    torch.save(tensors | {"visual.attn_pool.query": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(BadInput) as error:
        convert(tmp_path / "a.pt", tmp_path / "out")
    assert error.value.field == "visual.attn_pool.query"
    torch.save({k: v for k, v in tensors.items() if k != "visual.ln_post.bias"}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="post_layernorm.bias"):
        convert(tmp_path / "a.pt", tmp_path / "out")


def tiny_mps(clip):
    """The tensors of a whole MPS on `clip`: two layers, 3 heads of 4, feed-forward 6; buffers
    included."""
    width = 10
    inner = 12
    head = 4
    ff = 6
    tensors = {f"model.{name}": tensor for name, tensor in clip.state_dict().items()}
    shapes = {
        "0.fn.to_q": (inner, width),
        "0.fn.to_kv": (2 * head, width),
        "0.fn.to_out": (width, inner),
        "0.fn.ff.0": (2 * ff, width),
        "0.fn.ff.2": (width, ff),
        "1.fn.attn_out": (width, inner),
        "1.fn.fused_attn_ff_proj": (inner + 2 * head + 2 * ff, width),
        "1.fn.ff_out.1": (width, ff),
        "0.fn.norm": (width,),
        "1.fn.norm": (width,),
    }
    for i in range(2):
        tensors |= {
            f"cross_model.layers.{i}.{name}.weight": torch.randn(shape)
            for name, shape in shapes.items()
        }
        tensors |= {f"cross_model.layers.{i}.{j}.fn.norm.bias": torch.zeros(width) for j in (0, 1)}
        tensors[f"cross_model.layers.{i}.1.fn.rotary_emb.inv_freq"] = torch.ones(head // 2)
    return tensors


def check_mps(folder, tensors):
    config, params = folders.load(mps_hf, folder)
    assert config.cross == CrossConfig(layers=2, heads=3, head_dim=4, ff_width=6)
    assert config.clip.vision.heads == 2 and config.clip.vision.activation == "gelu"
    for name, array in params_to_hf(mps_hf.weights(config), params).items():
        np.testing.assert_array_equal(array, tensors[name].numpy(), err_msg=name)


def test_convert_mps_state_dict(tmp_path):
    tensors = {name: tensor.half() for name, tensor in tiny_mps(tiny_clip()).items()}
    torch.save(tensors, tmp_path / "mps.pth")
    remarks = convert(tmp_path / "mps.pth", tmp_path / "out")
    assert len(remarks) == 1 and "tokenizer" in remarks[0]
    assert read_json(tmp_path / "out" / "config.json")["torch_dtype"] == "float16"
    check_mps(tmp_path / "out", tensors)
    torch.save(tensors | {"cross_model.layers.0.2.extra": torch.zeros(1)}, tmp_path / "mps.pth")
    with pytest.raises(BadInput) as error:
        convert(tmp_path / "mps.pth", tmp_path / "other")
    assert error.value.field == "cross_model.layers.0.2.extra"


CALLS = []


def record_call():
    CALLS.append("called")


class RunsCode:
    """Python's own pickle would call the function."""

    def __reduce__(self):
        return record_call, ()


class BlockedFunction:
    def __reduce__(self):
        return os.system, ("true",)


def test_convert_pickled_mps_runs_no_code(tmp_path, monkeypatch):
    """The published file is a pickled module, whose classes are not installed."""
    trainer = types.ModuleType("trainer")
    module_class = type("CLIPModel", (torch.nn.Module,), {"__module__": "trainer"})
    trainer.CLIPModel = module_class
    clip = tiny_clip()
    tensors = tiny_mps(clip)
    model = module_class()
    for name, tensor in tensors.items():
        if not name.startswith("model."):
            *path, leaf = name.split(".")
            inner = model
            for step in path:
                if step not in inner._modules:
                    inner.add_module(step, module_class())
                inner = inner._modules[step]
            keep = (
                inner.register_buffer if leaf in ("inv_freq", "bias") else inner.register_parameter
            )
            keep(leaf, tensor if leaf in ("inv_freq", "bias") else torch.nn.Parameter(tensor))
    model.add_module("model", clip)
    model.trace = RunsCode()
    monkeypatch.setitem(sys.modules, "trainer", trainer)
    torch.save(model, tmp_path / "mps.pth")
    monkeypatch.delitem(sys.modules, "trainer")
    allowed = set(torch.serialization.get_safe_globals())
    convert(tmp_path / "mps.pth", tmp_path / "out")
    check_mps(tmp_path / "out", tensors)
    assert not CALLS
    assert set(torch.serialization.get_safe_globals()) == allowed


# ------------------------------------------------------------------------------ unsupported sources


def test_export_unsupported_source_is_one_line(tmp_path, capsys):
    def refused(source, *options):
        assert (
            main(["export", f"--from={source}", "--to=pav", f"--out={tmp_path / 'out'}", *options])
            == 2
        )
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and not (tmp_path / "out").exists()
        return line

    file = tmp_path / "some.pth"
    torch.save({"encoder.weight": torch.zeros(2), "encoder.bias": torch.zeros(2)}, file)
    line = refused(file)
    assert "2 tensors" in line and "'encoder.weight'" in line and "MPS_overall_checkpoint" in line
    torch.save([1, 2], file)
    assert "no named tensors" in refused(file)
    file.write_text("<html>Quota exceeded</html>")
    assert "cannot read weights" in refused(file)
    torch.save(
        {"weight": torch.zeros(1, 3), "bias": torch.zeros(1), "also": BlockedFunction()}, file
    )
    assert "blocked" in refused(file)
    # as OpenAI publishes CLIP
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), file)
    assert "TorchScript" in refused(file)
    write_json(tmp_path / "config.json", {"model_type": "siglip"})
    assert "'siglip'" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "gone.pth")
    torch.save({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, file)
    assert "--activation" in refused(file, "--activation=gelu")
    assert "--adapter" in refused(file, "--adapter=a")
