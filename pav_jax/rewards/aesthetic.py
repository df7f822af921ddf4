"""AES: LAION's aesthetic predictors, averaged over frames.

A small head maps the unit-length CLIP image embedding to a score. There are two published heads:
`linear` is one layer (LAION-AI/aesthetic-predictor); `mlp` has the widths 768-1024-128-64-16-1
(christophschuhmann/improved-aesthetic-predictor), without activation functions between its layers.
Its dropout layers do nothing at inference.

A head's folder holds config.json, {"kind": "linear" | "mlp", "input_dim": 768, "hidden_dims":
[1024, ...], "activation": null or a name}, and model.safetensors with the tensor names of the
published .pth files: `weight` and `bias`, or `layers.<i>.weight` and `layers.<i>.bias`. The index i
counts the dropout layers, which follow each layer but the last two.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
from pav_jax.rewards.clip_tower import ClipTower, Dtype, Layout, check_layout
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import AestheticOptions
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import read_fields

HEAD_FOLDER = "aesthetic_head"  # in the folder of the CLIP checkpoint


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The architecture of a head, as in its config.json.

    Attributes:
      input_dim: width of the CLIP embedding.
      hidden_dims: widths of the inner layers; empty for `linear`.
      activation: name of the function between layers, one of `ACTIVATIONS`; None: none.
    """

    kind: Literal["linear", "mlp"] = "linear"
    input_dim: int = 768
    hidden_dims: tuple[int, ...] = ()
    activation: str | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str) -> "HeadConfig":
        """Checks the content of a config.json.

        Args:
          source: the path of the file, for error messages.

        Raises:
          BadInput: a field has an unusable value.
        """
        if "kind" not in raw:
            raise BadInput(f"{source}: kind is missing; write 'linear' or 'mlp'", source, "kind")
        values = {name: value for name, value in raw.items() if value is not None}
        config = read_fields(cls, values, source)
        if (config.kind == "mlp") != bool(config.hidden_dims):
            raise BadInput(
                f"{source}: hidden_dims must list the inner widths of an mlp, and be empty for"
                " linear",
                source,
                "hidden_dims",
            )
        if config.activation is not None and config.activation not in ACTIVATIONS:
            raise BadInput(
                f"{source}: activation is {config.activation!r}; expected null or one of"
                f" {', '.join(ACTIVATIONS)}",
                source,
                "activation",
            )
        return config


class AestheticHead(nn.Module):
    """Maps unit-length embeddings [..., P] to one score each."""

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
    """The table of a head's weights: published tensor names and parameter paths."""
    last = len(config.hidden_dims)
    table = []
    for i in range(last + 1):
        position = 2 * i if i < last else 2 * last - 1  # counts the dropout layers
        prefix = f"layers.{position}." if config.kind == "mlp" else ""
        table.append(Weight(f"{prefix}weight", f"layer_{i}/kernel", "linear", (None, None)))
        table.append(Weight(f"{prefix}bias", f"layer_{i}/bias", "same", (None,)))
    return table


def load_head(folder: str | Path) -> tuple[HeadConfig, dict]:
    """Loads a head's configuration and parameters.

    Raises:
      BadInput: a file is missing or incomplete, a parameter is NaN, or the sizes of the tensors
        differ from config.json.
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
    """Writes a head's folder, which `load_head` reads."""
    write_tensors(folder, params_to_hf(weights(config), params), "model")
    write_json(
        Path(folder) / "config.json",
        dataclasses.asdict(config) | {"hidden_dims": list(config.hidden_dims)},
    )


class Aesthetic(PretrainedReward):
    """The reward AES."""

    names = ("AES",)
    options = AestheticOptions

    def __init__(
        self,
        tower: ClipTower,
        head: HeadConfig,
        params: Mapping,
        frames: int = 4,
        layout: Layout = "frames",
    ):
        self.tower = tower
        self.frames = frames
        self.layout: Layout = check_layout(layout)
        self.head = head
        self.params = params
        module = AestheticHead(head)
        self._program = jax.jit(lambda x: module.apply({"params": params}, normalise(x)))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        head: str | Path | None = None,
        frames: int = 4,
        layout: Layout = "frames",
        dtype: Dtype = "float32",
    ) -> "Aesthetic":
        """Loads a CLIP and its head.

        Args:
          path: a CLIP checkpoint in the layout of transformers: a folder or a Hub repository.
          head: the folder of the head; None: `aesthetic_head` in the CLIP folder.
          frames: number of evenly spaced frames of a video that are scored.
          layout: see `ClipTower.embed_frames`.
          dtype: of the CLIP.

        Raises:
          BadInput: a checkpoint is missing, incomplete or of another model, or the head belongs to
            another width of embeddings.
        """
        tower = ClipTower.load(path, dtype)
        head_folder = local_folder(head) if head else tower.folder / HEAD_FOLDER
        config, params = load_head(head_folder)
        if config.input_dim != tower.config.projection_dim:
            raise BadInput(
                f"{head_folder}/config.json: input_dim is {config.input_dim}, but the embeddings of"
                f" {path} have {tower.config.projection_dim} dimensions; use the head that was"
                " trained on this CLIP",
                head_folder / "config.json",
                "input_dim",
            )
        return cls(tower, config, params, frames, layout)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
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
        """Run on the local devices of this process only; see `Reward.use_local_devices`."""
        self.tower.use_local_devices()

    def frames_read(self, num_frames: int) -> np.ndarray:
        """Evenly spaced frames."""
        return frame_indices(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns AES [B]."""
        embedded_BxNxP = self.tower.embed_frames(videos, self.frames, self.layout)
        # one video per call: then the sum over P always has the same order
        scores = [np.asarray(self._program(frames_NxP)).mean() for frames_NxP in embedded_BxNxP]
        return {"AES": np.array(scores, np.float32)}
