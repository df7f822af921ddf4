"""AES and TVA against the same steps with Pillow and transformers' CLIP: from uint8 frames to the
score."""

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # vocabulary: ignore

from pav_jax.rewards import aesthetic
from pav_jax.rewards.clip_alignment import ClipAlignment
from pav_jax.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, frame_indices

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a red ball", "the sea over a red box and a cat and a ball and a dog", "unknown words"]


def write_folder(folder, seed):
    words = "<pad> <unk> <bos> <eos> a red ball box sea cat dog and the over"
    vocabulary = {word: i for i, word in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(  # vocabulary: ignore
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    ).save_pretrained(folder)
    rng = np.random.default_rng(seed)
    tower = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config=tower
        | dict(
            vocab_size=len(vocabulary),
            max_position_embeddings=9,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
            hidden_act=str(rng.choice(["gelu", "quick_gelu"])),
        ),
        vision_config=tower
        | dict(image_size=int(rng.integers(18, 26)), patch_size=int(rng.integers(5, 9))),
        projection_dim=12,
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    hidden = (7, 5) if seed % 2 else ()
    head = aesthetic.HeadConfig("mlp" if hidden else "linear", 12, hidden)
    widths = (12, *hidden, 1)
    params = {
        f"layer_{i}": {
            "kernel": (rng.normal(size=(a, b)) / a**0.5).astype(np.float32),
            "bias": rng.normal(size=b).astype(np.float32),
        }
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
    }
    aesthetic.save_head(folder / aesthetic.HEAD_FOLDER, head, params)
    return model, tokenizer, params


@pytest.mark.parametrize("seed", [0, 1])
def test_clip_rewards_equal_pillow_and_transformers(seed, tmp_path):
    model, tokenizer, params = write_folder(tmp_path, seed)
    rng = np.random.default_rng(10 + seed)
    videos = rng.integers(0, 256, (3, 7, 36, 48, 3), np.uint8)
    size = model.config.vision_config.image_size
    wide = int(size * 48 / 36)

    def pixels(frame):
        picture = Image.fromarray(frame)
        for step in (
            (wide, 36),
            (wide, size),
        ):  # in this order: recent versions of Pillow sometimes swap the passes
            picture = picture.resize(step, Image.Resampling.BICUBIC)
        left = (wide - size) // 2
        x = np.asarray(picture.crop((left, 0, left + size, size)), np.float32) / 255
        return ((x - np.float32(OPENAI_MEAN)) / np.float32(OPENAI_STD)).transpose(2, 0, 1)

    aes = []
    tva = []
    for video, prompt in zip(videos, PROMPTS, strict=True):
        encoding = tokenizer.encode(prompt).ids
        ids = encoding if len(encoding) <= 9 else [*encoding[:8], 3]
        with torch.no_grad():
            out = model(
                input_ids=torch.tensor([ids]),
                pixel_values=torch.from_numpy(
                    np.stack([pixels(f) for f in video[frame_indices(7, 4)]])
                ),
            )
        x = out.image_embeds.numpy()
        tva.append(out.logits_per_image.mean().item())
        for layer in params.values():
            x = x @ layer["kernel"] + layer["bias"]
        aes.append(x.mean())
    ours = aesthetic.Aesthetic.from_pretrained(tmp_path).score(videos, PROMPTS)["AES"]
    np.testing.assert_allclose(
        ours, aes, rtol=2e-3, atol=2e-3
    )  # a grey level in 255 goes another way now and then
    np.testing.assert_allclose(
        ClipAlignment.from_pretrained(tmp_path).score(videos, PROMPTS)["TVA"],
        tva,
        rtol=2e-3,
        atol=2e-3,
    )
