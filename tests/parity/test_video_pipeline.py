"""A whole pipeline saved by `VideoModel` and run by diffusers: same prompt and noise, same video."""

import inspect

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpm_cogvideox
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pav_jax.models import t5
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.video import VideoModel, sampling, schedulers
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.generation import Generation

PROMPTS = ["a red ball bounces on grass", "two cats"]
NEGATIVE = "dark blurred"
STEPS = 4


def tiny_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    words = "<pad> </s> <unk> a red ball bounces on grass two cats dark blurred".split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                   model_max_length=tokens)


def random_params(shapes, rng, scale):
    """Random weights; norms' scales near one, so that activations neither vanish nor explode."""
    def leaf(path, shape):
        values = scale * rng.standard_normal(shape.shape, dtype=np.float32)
        return values + 1 if path[-1].key == "scale" else values
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_model(seed: int, scheduler: dict, rotary: bool) -> VideoModel:
    rng = np.random.default_rng(seed)
    vae = CogVideoXVAEConfig(block_out_channels=(8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
                             temporal_compression_ratio=2, scaling_factor=float(rng.choice([0.7, 1.15])),
                             sample_height=8, sample_width=16)
    text = t5.T5Config(vocab_size=20, width=16, head_size=4, heads=2, layers=1, ff_width=24)
    denoiser = CogVideoXConfig(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=2, time_embed_dim=8,
        text_embed_dim=16, sample_width=8, sample_height=4, sample_frames=9, max_text_seq_length=8,
        temporal_compression_ratio=2,
        use_rotary_positional_embeddings=rotary,
    )
    family = CogVideoX(tiny_tokenizer(8), t5.T5Encoder(text), CogVideoXTransformer(denoiser), CogVideoXVAE(vae),
                       schedulers.load(scheduler))
    params = {
        "text_encoder": random_params(t5.hf.param_shapes(text), rng, 0.3),
        "transformer": random_params(transformer_hf.param_shapes(denoiser), rng, 0.15),
        "vae": random_params(vae_hf.param_shapes(vae), rng, 0.15),
    }
    return VideoModel(family, params, Generation(steps=STEPS, guidance_scale=3.0, batch=2))


def their_video(folder, model, latents, seeds, monkeypatch, **arguments) -> np.ndarray:
    """diffusers' frames, uint8; the noise of step i is our draw i + 1."""
    pipeline = diffusers.CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    step_of_scheduler, drawn = pipeline.scheduler.step, iter(range(1, STEPS + 1))

    def step(*positional, **named):
        index = next(drawn)
        _, t, c, h, w = latents.shape
        ours = sampling.noise(sampling.video_keys(seeds), index, (t, h, w, c))
        torch_noise = torch.tensor(np.asarray(ours).transpose(0, 1, 4, 2, 3))
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, **__: torch_noise)
        return step_of_scheduler(*positional, **named)

    step.__signature__ = inspect.signature(step_of_scheduler)  # the pipeline reads it
    monkeypatch.setattr(pipeline.scheduler, "step", step)
    frames = pipeline(PROMPTS, negative_prompt=[NEGATIVE] * 2, num_inference_steps=STEPS, latents=torch.tensor(latents),
                      max_sequence_length=8, output_type="np", **arguments).frames
    return (frames * 255).round().astype(np.uint8)


@pytest.mark.parametrize("name, rotary, dynamic", [
    ("CogVideoXDDIMScheduler", False, False), ("CogVideoXDPMScheduler", True, True),
    ("CogVideoXDPMScheduler", False, False)])
def test_the_saved_pipeline_gives_the_same_video_in_diffusers(name, rotary, dynamic, tmp_path, monkeypatch):
    scheduler = {"_class_name": name, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
                 "timestep_spacing": "trailing", "snr_shift_scale": 1.0 if rotary else 3.0, "clip_sample": False}
    model = random_model(3, scheduler, rotary)
    model.save_pretrained(tmp_path)
    again = VideoModel.from_pretrained(tmp_path, dtype="float32")

    latents = np.random.default_rng(5).standard_normal((2, 5, 4, 4, 8), dtype=np.float32)
    for guidance in (3.0,) if dynamic else (3.0, 1.0):
        ours = again.generate(PROMPTS, NEGATIVE, guidance_scale=guidance, latents=latents, seed=[7, 8],
                              use_dynamic_cfg=dynamic)
        theirs = their_video(tmp_path, again, latents, [7, 8], monkeypatch, guidance_scale=guidance,
                             use_dynamic_cfg=dynamic)
        assert ours.shape == theirs.shape == (2, 9, 8, 16, 3)
        assert ours.std() > 5  # a grey picture would prove nothing
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_what_diffusers_saved_loads_here_and_keeps_its_fingerprint_wherever_it_lies(tmp_path):
    scheduler = {"_class_name": "CogVideoXDDIMScheduler"}
    random_model(4, scheduler, False).save_pretrained(tmp_path / "a")
    diffusers.CogVideoXPipeline.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    first = VideoModel.from_pretrained(tmp_path / "a", dtype="float32")
    assert first.defaults == Generation(steps=STEPS, guidance_scale=3.0, batch=2)
    second = VideoModel.from_pretrained(tmp_path / "b", dtype="float32", steps=STEPS, guidance_scale=3.0, batch=2)
    one, two = (model.generate(PROMPTS[:1], seed=3) for model in (first, second))
    np.testing.assert_array_equal(one, two)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert VideoModel.from_pretrained(tmp_path / "moved", dtype="float32").fingerprint == first.fingerprint
