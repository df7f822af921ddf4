"""AES: LAION's aesthetic predictors, a small head on the unit-length CLIP image embedding, averaged
over frames.

Two published heads, and any size between: `linear` is one layer (LAION-AI/aesthetic-predictor),
`mlp` is the chain 768-1024-128-64-16-1 of christophschuhmann/improved-aesthetic-predictor; its
dropouts do nothing here, and between its layers there is no activation function.

A head folder holds config.json, {"kind": "linear" | "mlp", "input_dim": 768, "hidden_dims": [1024,
...], "activation": null or a name}, and model.safetensors with the tensor names of the published
.pth files: `weight` and `bias`, or `layers.<i>.weight` and `layers.<i>.bias`, where i skips the
dropout that follows each layer but the last two.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pav_jax.checkpoints.folder import check_finite
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.clip.model import normalise
from pav_jax.models.layers import ACTIVATIONS
from pav_jax.models.weights import Weight, params_from_hf, params_to_hf
from pav_jax.rewards.clip_tower import ClipTower, check_layout
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import AestheticOptions
from pav_jax.rewards.reward import PretrainedReward
from pav_jax.storage.json_files import read_json, write_json

HEAD_FOLDER = "aesthetic_head"  # inside the CLIP folder


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    kind: str = "linear"
    input_dim: int = 768
    hidden_dims: tuple[int, ...] = ()
    activation: str | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str) -> "HeadConfig":
        kind, hidden = raw.get("kind"), tuple(raw.get("hidden_dims") or ())
        if kind not in ("linear", "mlp"):
            raise BadInput(f"{source}: kind is {kind!r}, expected 'linear' or 'mlp'")
        if (kind == "mlp") != bool(hidden):
            raise BadInput(
                f"{source}: hidden_dims must list the mlp's inner widths, and be empty for linear"
            )
        if (activation := raw.get("activation")) is not None and activation not in ACTIVATIONS:
            raise BadInput(
                f"{source}: activation is {activation!r}; known: null, {', '.join(ACTIVATIONS)}"
            )
        return cls(kind, raw.get("input_dim", 768), hidden, activation)


class AestheticHead(nn.Module):
    """Unit-length embeddings to one score each."""

    config: HeadConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... P"]) -> Float[Array, "..."]:
        widths = (*self.config.hidden_dims, 1)
        for i, width in enumerate(widths):
            x = nn.Dense(width, precision=jax.lax.Precision.HIGHEST, name=f"layer_{i}")(x)
            if self.config.activation is not None and i < len(widths) - 1:
                x = ACTIVATIONS[self.config.activation](x)
        return x[..., 0]


def weights(config: HeadConfig) -> list[Weight]:
    last = len(config.hidden_dims)
    rows = []
    for i in range(last + 1):
        name = f"layers.{2 * i if i < last else 2 * last - 1}." if config.kind == "mlp" else ""
        rows.append(Weight(f"{name}weight", f"layer_{i}/kernel", "linear", (None, None)))
        rows.append(Weight(f"{name}bias", f"layer_{i}/bias", "same", (None,)))
    return rows


def load_head(folder: str | Path) -> tuple[HeadConfig, dict]:
    """The head's configuration and parameters.

    Raises:
      BadInput: a missing, half-written or NaN head, or tensors of other sizes than its config.json
        says.
    """
    folder = Path(folder)
    config = HeadConfig.from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    shapes = jax.eval_shape(
        AestheticHead(config).init, jax.random.key(0), jnp.zeros((1, config.input_dim))
    )["params"]
    params = params_from_hf(
        weights(config), read_tensors(folder, ("model",)), str(folder), np.float32, shapes
    )
    check_finite(params, folder)
    return config, params


def save_head(folder: str | Path, config: HeadConfig, params: Mapping) -> None:
    write_tensors(folder, params_to_hf(weights(config), params), "model")
    write_json(
        Path(folder) / "config.json",
        dataclasses.asdict(config) | {"hidden_dims": list(config.hidden_dims)},
    )


class Aesthetic(PretrainedReward):
    """AES behind the suite's protocol."""

    names = ("AES",)
    options = AestheticOptions

    def __init__(
        self,
        tower: ClipTower,
        head: HeadConfig,
        params: Mapping,
        frames: int = 4,
        layout: str = "frames",
    ):
        self.tower, self.frames, self.layout = tower, frames, check_layout(layout)
        self.head, self.params = head, params
        module = AestheticHead(head)
        self._program = jax.jit(lambda x: module.apply({"params": params}, normalise(x)))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        head: str | Path | None = None,
        frames: int = 4,
        layout: str = "frames",
        dtype: str = "float32",
    ) -> "Aesthetic":
        """`path`: a CLIP in transformers' layout; `head`: its head's folder,
        `<path>/aesthetic_head` where None.
        `layout`: see `ClipTower.embed_frames`.

        Raises:
          BadInput: a missing, half-written or foreign checkpoint, or a head for another embedding
            width.
        """
        tower = ClipTower.load(path, dtype)
        head_folder = local_folder(head) if head else tower.folder / HEAD_FOLDER
        config, params = load_head(head_folder)
        if config.input_dim != tower.config.projection_dim:
            raise BadInput(
                f"{head_folder}/config.json: input_dim is {config.input_dim}, but the embeddings of"
                f" {tower.folder} have {tower.config.projection_dim} dimensions; take the head trained on"
                " this CLIP"
            )
        return cls(tower, config, params, frames, layout)

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "aesthetic",
            clip=self.tower.folder,
            dtype=self.tower.dtype,
            frames=self.frames,
            layout=self.layout,
            head=dataclasses.asdict(self.head),
            params=self.params,
        )

    def use_local_devices(self) -> None:
        self.tower.use_local_devices()

    def score(
        self, videos: np.ndarray, prompts: Sequence[str], refined=None
    ) -> dict[str, np.ndarray]:
        embedded_BxNxP = self.tower.embed_frames(videos, self.frames, self.layout)
        # One video per call: the sum over P then always runs in one order.
        scores = [np.asarray(self._program(one)).mean() for one in embedded_BxNxP]
        return {"AES": np.array(scores, np.float32)}
