"""The embedded checkpoints: size, agreement with their trainers, parity with transformers and
diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.checkpoints.folder import load
from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.mini import tokenizers
from pav_jax.mini.training import (
    clip,
    generator,
    generator_trainer,
    mps,
    rewriter,
    vae,
    videoreward,
    videoscore,
    videoscore_examples,
    wan,
    wan_vae,
)
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.decoder import Decoder
from pav_jax.models.decoder import hf as llama_hf
from pav_jax.models.idefics2 import hf as idefics2_hf
from pav_jax.models.idefics2.model import Idefics2
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.qwen2_vl import hf as qwen2_vl_hf
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.wan import transformer_hf as wan_hf
from pav_jax.models.wan import vae_hf as wan_vae_hf
from pav_jax.models.wan.vae import WanVAE
from pav_jax.rewards.videoscore import FRAME, SLOT

MEGABYTE = 10**6
FOLDERS = {
    "text_encoder": "generator/text_encoder",
    "transformer": "generator/transformer",
    "vae": "generator/vae",
    "clip": "clip",
    "head": "clip/aesthetic_head",
    "rewriter": "rewriter",
    "videoscore": "videoscore",
    "videoreward": "videoreward",
    "mps": "mps",
    "wan_text_encoder": "generator_wan/text_encoder",
    "wan_transformer": "generator_wan/transformer",
    "wan_vae": "generator_wan/vae",
}
TEXTS = [
    "a crimson orb glides rightward",
    "a short video of a small matte red ball rises over the sea.",
]
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def folder(name):
    path = CHECKPOINTS / FOLDERS[name]
    assert (path / "config.json").exists(), f"the package ships no {FOLDERS[name]}"
    return path


def run(function, *args):
    """Compiles with low effort, because these programs run once."""
    return np.asarray(jax.jit(function).lower(*args).compile(QUICK)(*args))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)


def loaded(original, path):
    """The model in its original library in float32; all tensors of the file are used and none is
    missing."""
    torch = pytest.importorskip("torch")
    name = "dtype" if original.__module__.startswith("transformers") else "torch_dtype"
    model, info = original.from_pretrained(
        path, output_loading_info=True, local_files_only=True, **{name: torch.float32}
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


# ----------------------------------------------------------------------------------------- contents


def test_checkpoints_total_size():
    files = [p for p in CHECKPOINTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40 * MEGABYTE
    assert not [
        p.name for p in files if p.name.endswith((".part", ".state", ".npy", ".pt", ".bin"))
    ]


@pytest.mark.parametrize("name", [n for n in FOLDERS if n != "head"])
def test_checkpoints_bf16_and_finite(name):
    tensors = read_tensors(folder(name))
    assert {str(tensors[n].dtype) for n in tensors} == {"bfloat16"}
    assert all(np.isfinite(tensors[n].astype(np.float32)).all() for n in tensors)


@pytest.mark.parametrize(
    "name, layout, declared",
    [
        ("text_encoder", t5_hf, generator.t5_config),
        ("rewriter", llama_hf, rewriter.config),
        ("transformer", transformer_hf, lambda: generator.DENOISER),
        ("clip", clip_hf, clip.config),
        ("videoscore", idefics2_hf, videoscore.config),
        ("videoreward", qwen2_vl_hf, videoreward.config),
        ("mps", mps_hf, mps.config),
        ("wan_text_encoder", t5_hf, wan.t5_config),
        ("wan_transformer", wan_hf, lambda: wan.DENOISER),
    ],
)
def test_checkpoints_config_matches_trainer(name, layout, declared):
    assert load(layout, folder(name))[0] == declared()


@pytest.mark.parametrize(
    "directory, make_tokenizer",
    [
        ("generator/tokenizer", tokenizers.t5_tokenizer),
        ("generator_wan/tokenizer", tokenizers.t5_tokenizer),
        ("clip", tokenizers.clip_tokenizer),
        ("rewriter", tokenizers.rewriter_tokenizer),
        ("videoscore", videoscore.tokenizer),
        ("videoreward", videoreward.tokenizer),
        ("mps", tokenizers.clip_tokenizer),
    ],
)
def test_checkpoints_tokenizer_matches_trainer(directory, make_tokenizer):
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(CHECKPOINTS / directory)
    expected = make_tokenizer()
    assert saved(TEXTS)["input_ids"] == expected(TEXTS)["input_ids"]
    assert saved.get_vocab() == expected.get_vocab()
    assert saved.chat_template == expected.chat_template


# ------------------------------------------------------------------------------------------- parity


def test_text_encoder_matches_transformers():
    path = folder("text_encoder")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs = loaded(transformers.T5EncoderModel, path)
    config, params = load(t5_hf, path, jnp.float32)
    ids = tokenizers.encode(tokenizers.t5_tokenizer(), TEXTS, 32)
    ours = run(lambda p, i: T5Encoder(config).apply({"params": p}, i), params, ids)
    with torch.no_grad():
        close(ours, theirs(torch.tensor(ids, dtype=torch.long)).last_hidden_state.numpy())


def test_clip_matches_transformers():
    path = folder("clip")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs = loaded(transformers.CLIPModel, path)
    config, params = load(clip_hf, path, jnp.float32)
    ids = tokenizers.encode(tokenizers.clip_tokenizer(), TEXTS, 24)
    size = config.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    text = run(lambda p, i: CLIP(config).apply({"params": p}, i, method="encode_text"), params, ids)
    image = run(
        lambda p, x: CLIP(config).apply({"params": p}, x, method="encode_image"), params, pixels
    )
    with torch.no_grad():
        out = theirs(
            input_ids=torch.tensor(ids, dtype=torch.long),
            pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2),
        )
    for mine, original in ((text, out.text_embeds), (image, out.image_embeds)):
        close(mine / np.linalg.norm(mine, axis=-1, keepdims=True), original.numpy())


def test_rewriter_matches_transformers():
    path = folder("rewriter")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs = loaded(transformers.LlamaForCausalLM, path)
    config, params = load(llama_hf, path, jnp.float32)
    ids = np.asarray(tokenizers.rewriter_tokenizer()(TEXTS[1:])["input_ids"], np.int32)
    ours = run(lambda p, i: Decoder(config).apply({"params": p}, i), params, ids)
    with torch.no_grad():
        close(ours, theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy())


def test_videoscore_matches_transformers():
    path = folder("videoscore")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs, info = transformers.Idefics2Model.from_pretrained(
        path, output_loading_info=True, local_files_only=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and set(info["unexpected_keys"]) == {
        "score.weight",
        "score.bias",
    }
    config, params = load(idefics2_hf, path, jnp.float32)
    query = videoscore_examples.QUERY_TEXT.replace(SLOT, TEXTS[0]) + FRAME * 2
    ids, mask = videoscore.processor().texts([query])
    side = config.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(1, 2, side, side, 3)).astype(np.float32)
    model = Idefics2(config)

    def ours(p, i, m, x):
        images = model.apply({"params": p}, x[0], method="encode_images").reshape(
            1, -1, config.text.hidden_size
        )
        return model.apply({"params": p}, i, m, images, method="hidden")

    with torch.no_grad():
        out = theirs.eval()(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask).long(),
            pixel_values=torch.tensor(pixels).permute(0, 1, 4, 2, 3),
            use_cache=False,
        )
    close(run(ours, params, ids, mask, pixels), out.last_hidden_state.numpy())


@pytest.mark.parametrize(
    "name, original, layout",
    [
        ("transformer", "CogVideoXTransformer3DModel", transformer_hf),
        ("vae", "AutoencoderKLCogVideoX", vae_hf),
        ("wan_transformer", "WanTransformer3DModel", wan_hf),
        ("wan_vae", "AutoencoderKLWan", wan_vae_hf),
    ],
)
def test_denoiser_and_vae_load_in_diffusers(name, original, layout):
    path = folder(name)
    diffusers = pytest.importorskip("diffusers")
    theirs = loaded(getattr(diffusers, original), path)
    _, params = load(layout, path, jnp.float32)
    assert sum(p.size for p in jax.tree.leaves(params)) == sum(
        p.numel() for p in theirs.parameters()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layout, model, channels",
    [
        ("vae", vae_hf, CogVideoXVAE, vae.CONFIG.latent_channels),
        ("wan_vae", wan_vae_hf, WanVAE, wan_vae.CONFIG.z_dim),
    ],
)
def test_vae_latents_and_reconstruction(name, layout, model, channels):
    path = folder(name)
    from pav_jax.mini.render import to_unit
    from pav_jax.mini.world import draw_scene
    from tests.mini.test_render import render

    config, params = load(layout, path, jnp.float32)
    vae = model(config)
    rng = np.random.default_rng(30)
    videos = np.asarray(to_unit(jnp.asarray(render([draw_scene(rng) for _ in range(8)]))))

    @jax.jit
    def code(params, videos):
        mean, _ = vae.apply({"params": params}, videos, method="encode")
        return config.scale(mean), vae.apply({"params": params}, mean, method="decode")

    latents, rebuilt = map(np.asarray, code(params, videos))
    assert latents.shape == (8, 3, 16, 16, channels)
    assert 0.8 < latents.std() < 1.25
    assert (latents.std((0, 1, 2, 3)) > 0.1).all()  # no channel is constant
    # what a codec would give that knows colours only
    plain = videos.mean((1, 2, 3), keepdims=True)
    assert np.square(rebuilt - videos).mean() < 0.3 * np.square(plain - videos).mean()


@pytest.mark.parametrize("name, training", [("generator", generator), ("generator_wan", wan)])
def test_generator_settings_match_trainer(name, training):
    from pav_jax.video.video_model import VideoModel

    model = VideoModel.from_pretrained(CHECKPOINTS / name, dtype="float32")
    declared = {k: v for k, v in training.GENERATION.items() if v is not None}
    assert {k: getattr(model.settings, k) for k in declared} == declared
    assert model.family.sequence_length(None) == generator_trainer.TEXT_TOKENS
    assert dict(model.family.scheduler.config) == training.SCHEDULER


@pytest.mark.slow
def test_wan_generator_matches_diffusers():
    from pav_jax.video.video_model import VideoModel

    path = CHECKPOINTS / "generator_wan"
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    text = (
        "sphere, crimson, tiny, dull, hopping, over the ocean, the camera is fixed, brilliant"
        " exposure"
    )
    pipeline = diffusers.WanPipeline.from_pretrained(path, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    model = VideoModel.from_pretrained(path, dtype="float32", num_inference_steps=2, batch_size=1)
    latents = np.random.default_rng(5).standard_normal((1, 16, 3, 16, 16), dtype=np.float32)
    theirs = pipeline(
        text,
        num_inference_steps=2,
        num_frames=9,
        height=64,
        width=64,
        guidance_scale=3.0,
        negative_prompt="",
        latents=torch.tensor(latents),
        max_sequence_length=generator_trainer.TEXT_TOKENS,
        output_type="np",
    ).frames
    ours = model.generate([text], latents=latents)
    assert ours.shape == theirs.shape == (1, 9, 64, 64, 3) and ours.std() > 5
    assert np.abs(ours - theirs * 255).max() <= 0.5 + 255 * 2e-3


def test_aesthetic_head_matches_clip():
    from pav_jax.rewards.aesthetic import load_head

    config, _ = load_head(folder("head"))
    assert config.kind == "linear" and config.input_dim == clip.config().projection_dim
