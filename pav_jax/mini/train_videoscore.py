"""Trains the mini VideoScore: `python -m pav_jax.mini.train_videoscore` writes checkpoints/videoscore (after the CLIP).

An Idefics2 of the published shape, a thousandth of the size. Its vision tower starts from the first layers of the mini
CLIP's and its words from the mini CLIP's; it is taught by regression on the declared labels of `damage.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.safetensors import write_json
from pav_jax.embedded import CHECKPOINTS
from pav_jax.mini import clips, fit
from pav_jax.mini.damage import COST, FADES, SAID, ask, damaged, fade_start, labels, truth
from pav_jax.mini.drawing import CLASSES
from pav_jax.mini.drawing import labels as attributes
from pav_jax.mini.tokenizers import EOS, PAD, rewriter_tokenizer, save
from pav_jax.mini.train_clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.train_clip import MEAN, STD
from pav_jax.mini.world import FRAMES, Scene
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.models.llama.model import LlamaConfig
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE, Idefics2Processor, ImageSettings
from pav_jax.rewards.preprocess import frame_indices, resize_bicubic
from pav_jax.rewards.videoscore import FRAME, NAMES, SLOT
from pav_jax.trust.degradations import SEVERITIES, miscaption

FOLDER = CHECKPOINTS / "videoscore"
QUERY = FOLDER / "query.txt"
QUERY_TEXT = f"{SLOT}:"  # as short as can be: every token costs time
SIDE, FRAMES_SHOWN, LATENTS = 48, 5, 3  # pixels of a frame as the tower sees it: a quarter of the CLIP's sheet
BATCH = 32
TOKENS = 48
FRAME_TOKENS = (FENCE, FENCE, FRAME[-1])  # beside a frame's latents


@dataclasses.dataclass(frozen=True)
class Leg:
    """From the weights of the one before, with fresh moments and examples of its own."""

    steps: int
    decay: int  # steps after which the learning rate would be at its end
    told: float  # weight of saying how severe which damage is
    stepped: float  # weight of saying, behind each frame, how much time has passed since the one before


# First to see and to read; then also to notice damage; at last what only the order of frames shows. The first leg was
# planned with 1100 steps; the shipped weights go on from its last save, at 427. The second and third were planned after
# the one before had ended, and the throw-away heads they train were put in then: here these have decayed a little first
# (by 3 % and 7 %), so a new run comes close to the shipped weights, not to their last bit.
LEGS = (Leg(427, 1100, 0.0, 0.0), Leg(900, 900, 2.0, 0.0), Leg(480, 480, 2.0, 3.0))
LEARNING_RATE = 4e-3
CLEAN, TWICE, GENERATED_SHARE, REBUILT_SHARE = 0.25, 0.3, 0.3, 0.2
TURN = 0.4  # how often, of the damaged videos that have a second one to turn into, the damage is that turn
# how often so many of the prompt's slots are wrong; 3: it is another scene's
WRONG = {0: 0.5, 1: 0.24, 2: 0.1, 3: 0.16}
WRONG_CAPTION = 0.15  # of the prompts that are right: how often some of the words are another prompt's
PLAIN_KINDS = tuple(kind for kind in COST if kind not in (*clips.TURN_KINDS, "cut", "tint"))
NAMED_KINDS = tuple(kind for kind in COST if kind != "tint")
ORDER_KINDS = ("freeze", "jump")


def tokenizer():
    """The mini models' words and the two tokens of a picture."""
    made = rewriter_tokenizer()
    made.chat_template = None
    made.add_special_tokens({"additional_special_tokens": [IMAGE, FENCE]})
    made.eos_token = "</s>"
    return made


def config() -> Idefics2Config:
    words = tokenizer()
    text = LlamaConfig(vocab_size=len(words), hidden_size=128, intermediate_size=256, num_hidden_layers=3,
                       num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=512,
                       pad_token_id=PAD, eos_token_id=EOS)  # fmt: skip
    vision = VisionConfig(width=128, ff_width=512, layers=2, heads=4, image_size=SIDE, patch_size=8,
                          activation="quick_gelu", norm_epsilon=1e-5)
    return Idefics2Config(text=text, vision=vision, labels=len(NAMES), sliding_window=None,
                          perceiver=PerceiverConfig(latents=LATENTS, depth=2, heads=4, kv_heads=4, head_dim=32),
                          image_token_id=words.convert_tokens_to_ids(IMAGE))


def processor() -> Idefics2Processor:
    return Idefics2Processor(tokenizer(), ImageSettings(SIDE, SIDE, 3, 1 / 255, MEAN, STD), LATENTS)


def start(shapes: dict) -> dict:
    """Random parameters, with the CLIP's first vision layers and its words where both have them.

    The CLIP normalises patches before its first layer, which Idefics2 does not: the norm's gain and a typical deviation
    go into the patch embedding.
    """
    model, (_, clip) = Idefics2(config()), folder.load(clip_hf, CLIP_FOLDER, jnp.float32)
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0), *shapes)["params"])
    seen, ours = clip["vision"], params["vision"]
    n, side = config().vision.layers, SIDE // config().vision.patch_size
    ours["layers"] = jax.tree.map(lambda a: np.array(a[:n]), seen["layers"])
    grid = np.array(seen["position_embedding"])[1:].reshape(2 * side, 2 * side, -1)
    positions = grid[:side, :side].reshape(side * side, -1)  # of the sheet's first frame
    videos = clips.rendered()[1][:64, 0]
    pixels = np.array(resize_bicubic(jnp.asarray(videos), SIDE, SIDE)) / 255
    pixels = ((pixels - MEAN) / STD).reshape(64, side, 8, side, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = np.array(seen["patch_embedding"])
    tokens = pixels.reshape(64, side * side, -1) @ kernel.reshape(-1, kernel.shape[-1]) + positions
    gain = np.array(seen["pre_norm"]["scale"]) / tokens.std(-1).mean()
    ours["patch_embedding"], ours["position_embedding"] = kernel * gain, positions * gain
    ours["patch_bias"] = np.array(seen["pre_norm"]["bias"]) - tokens.mean() * gain
    words = np.array(clip["text"]["token_embedding"]["embedding"])
    params["text"]["embed"][: len(words)] = words / words.std() * 0.5
    params["connector"]["latents"] = np.random.default_rng(1).normal(size=params["connector"]["latents"].shape)
    params["head"]["bias"] = np.full(len(NAMES), 2.5)
    return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


class Examples:
    """Batches of (frames, text, labels), pure functions of the step."""

    def __init__(self, leg: int):
        self.leg, self.processor = leg, processor()
        self.sets = [clips.rendered(), clips.generated()]
        listed, self.turns = clips.turns()
        self.turn_of = {(i, kind): row for row, (i, kind, _) in enumerate(listed)}
        self.shown = frame_indices(FRAMES, FRAMES_SHOWN)

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([85, i] if self.leg == 0 else [85, i, self.leg])
        rows = [self.one(rng) for _ in range(BATCH)]
        frames, texts, wanted, scenes, asked, right, hurt, steps = (list(column) for column in zip(*rows, strict=True))
        ids, mask = self.processor.texts(texts, TOKENS, "right")
        return {"frames": np.stack(frames), "ids": ids, "mask": mask, "labels": np.stack(wanted),
                "attributes": attributes(scenes), "asked": attributes(asked), "right": np.array(right, np.float32),
                "hurt": np.array(hurt, np.float32), "steps": np.array(steps, np.float32)}

    def one(self, rng: np.random.Generator):
        made = rng.random()
        scenes, videos = self.sets[int(made < GENERATED_SHARE)]
        low, high = (0, len(scenes)) if made < GENERATED_SHARE else (
            (0, clips.REBUILT) if made < GENERATED_SHARE + REBUILT_SHARE else (clips.REBUILT, len(scenes)))
        pick = int(rng.integers(low, high))
        video, damages = np.array(videos[pick]), []
        clock, fade = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None].repeat(3, -1), np.zeros(FRAMES)
        for kind in self.kinds(rng, pick, videos is self.sets[0][1]):
            severity = int(rng.integers(1, SEVERITIES))
            other = videos[int(rng.integers(low, high))] if kind == "cut" else (
                self.turns[self.turn_of[pick, kind]] if kind in clips.TURN_KINDS else None)
            seed = int(rng.integers(2**31))
            video = damaged(video, kind, severity, seed, other)
            if kind in ORDER_KINDS:
                clock = damaged(clock, kind, severity, seed)
            elif other is not None:
                fade[fade_start(FRAMES) :] = FADES[severity - 1]
            damages.append((kind, severity))
        prompt, asked, right, true = self.text(scenes[pick], rng)
        text = QUERY_TEXT.replace(SLOT, prompt) + FRAME * FRAMES_SHOWN
        hurt = [dict(damages).get(kind, 0) / (SEVERITIES - 1) for kind in NAMED_KINDS]
        steps = [np.diff(clock[self.shown, 0, 0, 0].astype(float)) / 2, np.diff(fade[self.shown])]
        wanted = labels(scenes[pick], true, damages)
        return video[self.shown], text, wanted, scenes[pick], asked, right, hurt, np.stack(steps, -1)

    def kinds(self, rng, pick: int, rendered: bool) -> list[str]:
        if rng.random() < CLEAN:
            return []
        turns = [kind for kind in clips.TURN_KINDS if rendered and (pick, kind) in self.turn_of]
        often = ("flicker", "jump", "freeze") * self.leg + ("tint",) * (2 * (self.leg - 1))
        first = turns[0] if turns and rng.random() < TURN else str(rng.choice([*PLAIN_KINDS, "cut", *often]))
        second = [str(rng.choice([k for k in PLAIN_KINDS if k != first]))] if rng.random() < TWICE else []
        return [first, *second]

    def text(self, scene, rng) -> tuple[str, Scene, list[bool], float]:
        """(prompt, the scene it asks for, which of SAID are right, 0..1 how true it is)."""
        wrong = int(rng.choice(list(WRONG), p=list(WRONG.values())))
        slots = [str(s) for s in rng.permutation(SAID)[:wrong]] if wrong < 3 else list(SAID)
        if rng.random() < 0.1:
            slots.append("background")
        prompt, asked, right = ask(scene, slots, rng)
        true = truth(prompt, scene, right)
        if not wrong and rng.random() < WRONG_CAPTION:
            other, severity = ask(scene, SAID, rng)[0], int(rng.integers(1, SEVERITIES))
            prompt = miscaption(prompt, other, "wrong caption", severity)
            true *= 1 - severity / (SEVERITIES - 1)
            right = dict.fromkeys(SAID, severity < 3)
        return prompt, asked, [right[s] for s in SAID], true


def main() -> None:
    fit.use_every_core()
    shapes = (np.zeros((1, TOKENS), np.int32), np.ones((1, TOKENS), bool),
              np.zeros((1, FRAMES_SHOWN, SIDE, SIDE, 3), np.float32))
    # Linear heads that speed it up and are thrown away: what the frames' tokens show, and at the last token what is
    # seen there, what is asked for, where the two agree, and how severe which damage is; behind
    # each frame the time since the one before, and how far the picture turns into another.
    heads = {"shown": sum(CLASSES), "seen": sum(CLASSES), "asked": sum(CLASSES), "right": len(SAID),
             "hurt": len(NAMED_KINDS), "steps": 2}
    params = {"judge": start(shapes)} | {
        name: np.array(jax.random.normal(jax.random.key(i), (config().text.hidden_size, size)) * 0.05)
        for i, (name, size) in enumerate(heads.items())}
    for number, leg in enumerate(LEGS):
        params = run(number, leg, params)
    write(params["judge"])


def run(number: int, leg: Leg, params: dict) -> dict:
    model, optimizer = Idefics2(config(), unroll=True), fit.muon(LEARNING_RATE, leg.decay, 50, 0.02)
    said = [0, 1, 4]  # the places of SAID among the attributes
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
    edges = np.cumsum(CLASSES)[:-1]
    ce = optax.softmax_cross_entropy_with_integer_labels

    def naming(logits, wanted, slots):
        parts = jnp.split(logits, edges, axis=-1)
        return sum(ce(parts[i], wanted[:, i]).mean() for i in slots)

    def loss(p, data):
        b, n = data["frames"].shape[:2]
        frames = resize_bicubic(data["frames"].reshape(b * n, *data["frames"].shape[2:]), SIDE, SIDE)
        apply = lambda *args, method: model.apply({"params": p["judge"]}, *args, method=method)  # noqa: E731
        images = apply((frames / 255 - mean) / std, method="encode_images").reshape(b, n * LATENTS, -1)
        hidden = apply(data["ids"], data["mask"], images, method="hidden")
        last = hidden[jnp.arange(b), data["mask"].sum(1) - 1]
        scores = last @ p["judge"]["head"]["kernel"] + p["judge"]["head"]["bias"]
        errors = jnp.square(scores - data["labels"]).mean(0)
        still = [i for i in range(len(CLASSES)) if i != said[2]]
        aids = {"shown": naming(images.mean(1) @ p["shown"], data["attributes"], still),
                "seen": naming(last @ p["seen"], data["attributes"], said),
                "asked": naming(last @ p["asked"], data["asked"], said)}
        matched = optax.sigmoid_binary_cross_entropy(last @ p["right"], data["right"]).mean(0)
        hurt = jnp.square(last @ p["hurt"] - data["hurt"]).mean(0)
        metrics = dict(zip(NAMES, jnp.sqrt(errors), strict=True)) | aids | dict(zip(SAID, matched, strict=True))
        metrics |= dict(zip(NAMED_KINDS, jnp.sqrt(hurt), strict=True))
        behind_n = (LATENTS + len(FRAME_TOKENS)) * np.arange(FRAMES_SHOWN - 2, -1, -1)  # from the last token back
        at_Bxn = (data["mask"].sum(1) - 1)[:, None] - behind_n
        passed_BxnxD = jnp.take_along_axis(hidden, at_Bxn[..., None], axis=1)
        steps = jnp.square(passed_BxnxD @ p["steps"] - data["steps"]).mean((0, 1))
        metrics |= {"passed": jnp.sqrt(steps[0]), "turning": jnp.sqrt(steps[1])}
        told = 0.3 * sum(aids.values()) + matched.sum() + leg.told * hurt.sum() + leg.stepped * steps.sum()
        return errors.sum() + told, metrics

    name = f"videoscore_{number + 1}"
    return jax.device_get(fit.descend(name, loss, optimizer, params, Examples(number), leg.steps))


def write(params: dict) -> None:
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(tokenizer(), FOLDER)
    QUERY.write_text(QUERY_TEXT, encoding="utf-8")
    write_json(FOLDER / "preprocessor_config.json", {
        "image_processor_type": "Idefics2ImageProcessor", "do_convert_rgb": True, "do_resize": True, "resample": 3,
        "size": {"shortest_edge": SIDE, "longest_edge": SIDE}, "do_image_splitting": False, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD),
        "do_pad": True,
    })  # fmt: skip


if __name__ == "__main__":
    main()
