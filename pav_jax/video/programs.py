"""What a family runs on devices, as three programs: read texts, denoise, decode. Encoder and VAE
may have devices of their own; then the VAE of one batch works while the denoiser has begun with the
next.

A family offers, besides what `VideoModel` asks of it,
  `encode_text(params, ids) -> embedding`, both [B, ...];
  `denoise(params, latents, text, negative, keys, scales, step_schedule) -> latents`, `negative` None
  where there is no
    guidance, `step_schedule` None where no step is saved;
  `decode(params, latents, tiled) -> video` in [-1, 1], float32;
  `on_mesh(mesh, ...) -> family`, the same one with what a mesh needs.

Shapes: B videos, ... the axes of one latent or text; T, H, W frames, height, width in pixels.
"""

import collections
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from pav_jax.errors import BadInput
from pav_jax.parallel import sharding_rules
from pav_jax.video import sampling

SIDE = ("text_encoder", "vae")  # parts that may lie beside the denoiser's mesh
KEPT_TEXTS = 256  # embeddings that are kept; one of T5-XXL takes 1.9 MB


class Programs:
    """A family's programs, compiled when first used, once for each combination of shapes.

    Args:
      mesh: of the denoiser; None: one device.
      side: of the parts in `SIDE`; None: the same as `mesh`.
    """

    def __init__(
        self,
        family: Any,
        mesh: jax.sharding.Mesh | None = None,
        side: jax.sharding.Mesh | None = None,
    ):
        self.family, self.mesh, self.side = family, mesh, side or mesh
        # Devices that are threads of one processor wait for each other inside a program; with two
        # programs under way each may hold a thread that the other waits for.
        self._one_by_one = any(
            some is not None and some.size > 1 and some.devices.flat[0].platform == "cpu"
            for some in (self.mesh, self.side)
        )
        self._texts: collections.OrderedDict[bytes, Array] = collections.OrderedDict()

    def place_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Every part on the mesh it belongs to."""
        axes = self.family.axes()
        placed = {}
        for name, tree in params.items():
            mesh = self.side if name in SIDE else self.mesh
            placed[name] = (
                jax.tree.map(jnp.asarray, tree)
                if mesh is None
                else sharding_rules.shard(tree, axes[name], mesh)
            )
        return placed

    # ----------------------------------------------------------------------------------------- text

    def encode_texts(
        self, params: Mapping, ids_BxS: Int[np.ndarray, "B S"], rows: int
    ) -> Float[Array, "B ..."]:
        """Embeddings, of which none is computed twice while it is kept: `KEPT_TEXTS` last used.

        Args:
          rows: texts in one run of the encoder.
        """
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in ids_BxS]
        missing = {key: i for i, key in enumerate(keys) if key not in self._texts}
        numbers = list(missing.values())
        found = {}
        for start in range(0, len(numbers), rows):
            some = numbers[start : start + rows]
            ids = ids_BxS[some + some[-1:] * (rows - len(some))]
            out = self.encoder(_some(params, "text_encoder"), spread(ids, self.side))
            found |= {keys[i]: self._settled(out[row]) for row, i in enumerate(some)}
        used = {key: found[key] if key in found else self._texts[key] for key in keys}
        for key, text in used.items():
            self._texts[key] = text
            self._texts.move_to_end(key)
        while len(self._texts) > KEPT_TEXTS:
            self._texts.popitem(last=False)
        return self._settled(spread(jnp.stack([used[key] for key in keys]), self.mesh))

    @functools.cached_property
    def encoder(self) -> Callable:
        return jax.jit(self.family.encode_text)

    # -------------------------------------------------------------------------------------- denoise

    def denoise(
        self,
        params: Mapping,
        text: Float[Array, "B ..."],
        negative: Float[Array, "B ..."] | None,
        latents: Float[np.ndarray, "B ..."] | None,
        keys_B: Key[Array, "B"],
        scales: Float[np.ndarray, "steps"],
        latent_shape: tuple[int, ...],
        keep: int,
        step_schedule: Any = None,
    ) -> Float[Array, "B ..."]:
        """Noise (the keys' own where `latents` is None) to clean latents, of which the last `keep`
        frames.

        Args:
          step_schedule: a `StepSchedule`, where steps are to be saved.
        """
        params = {name: tree for name, tree in params.items() if name not in SIDE}
        latents = None if latents is None else spread(latents, self.mesh)
        return self._settled(
            self.denoiser(
                params,
                text,
                negative,
                latents,
                keys_B,
                scales,
                latent_shape=latent_shape,
                keep=keep,
                step_schedule=step_schedule,
            )
        )

    @functools.cached_property
    def denoiser(self) -> Callable:
        return jax.jit(
            functools.partial(denoise, self.family),
            static_argnames=("latent_shape", "keep", "step_schedule"),
        )

    # --------------------------------------------------------------------------------------- decode

    def decode(
        self, params: Mapping, latents: Float[Array, "B ..."], tiled: bool
    ) -> tuple[UInt8[Array, "B T H W 3"], Bool[Array, "B"]]:
        """Frames, and of which videos every number was finite."""
        if self.side is not self.mesh:
            latents = spread(latents, self.side)
        return self._settled(self.decoder(_some(params, "vae"), latents, tiled=tiled))

    def _settled(self, arrays: Any) -> Any:
        """The arrays, computed before another program starts where programs must run one by one."""
        return jax.block_until_ready(arrays) if self._one_by_one else arrays

    @functools.cached_property
    def decoder(self) -> Callable:
        return jax.jit(functools.partial(decode, self.family), static_argnames=("tiled",))


def denoise(
    family: Any,
    params: Mapping,
    text: Array,
    negative: Array | None,
    latents: Array | None,
    keys_B: Array,
    scales: Array,
    *,
    latent_shape: tuple[int, ...],
    keep: int,
    step_schedule: Any = None,
) -> Array:
    """For `jit`: see `Programs.denoise`."""
    if latents is None:
        latents = sampling.noise(keys_B, 0, latent_shape)
    return family.denoise(params, latents, text, negative, keys_B, scales, step_schedule)[:, -keep:]


def decode(family: Any, params: Mapping, latents: Array, *, tiled: bool) -> tuple[Array, Array]:
    """For `jit`: see `Programs.decode`."""
    video = family.decode(params, latents, tiled)
    finite = jnp.isfinite(latents).all(axis=(1, 2, 3, 4)) & jnp.isfinite(video).all(
        axis=(1, 2, 3, 4)
    )
    frames = jnp.round(jnp.clip(jnp.nan_to_num(video) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(
        jnp.uint8
    )
    return frames, finite


def places(
    mesh: jax.sharding.Mesh | None, side: jax.sharding.Mesh | None
) -> Callable[[str], Callable]:
    """Name of a part -> `where` of `checkpoints.folder.load`: weights are read straight to where
    they belong."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def where(name: str) -> Callable:
        own = (side or mesh) if name in SIDE else mesh
        return (
            (lambda axes, shape: here)
            if own is None
            else functools.partial(sharding_rules.sharding, mesh=own)
        )

    return where


def _some(params: Mapping, name: str) -> dict[str, Any]:
    return {name: params[name]}


def spread(rows: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Rows on the mesh, cut along the batch as far as the mesh divides it."""
    if mesh is None:
        return rows
    spec = sharding_rules.partition_spec(("batch",) + (None,) * (rows.ndim - 1), rows.shape, mesh)
    return jax.device_put(rows, NamedSharding(mesh, spec))


def split_guidance(
    constrain: Callable, halves: bool, negative: Sequence[Array], positive: Sequence[Array]
) -> list[Array]:
    """The doubled batch of classifier-free guidance, [2B, ...], of whatever both branches have,
    each [B, ...].

    A video's two rows are neighbours, so they stay on one device; with `halves` all unconditional
    rows come first, so that each half of the mesh's `data` axis works on one branch.
    """

    def both(first: Array, second: Array) -> Array:
        pair = jnp.stack([first, second], axis=0 if halves else 1)
        return constrain(
            pair.reshape(-1, *first.shape[1:]), ("batch",) + (None,) * (first.ndim - 1)
        )

    return [both(*pair) for pair in zip(negative, positive, strict=True)]


def guided(output: Float[Array, "2B ..."], scale: Array, halves: bool) -> Float[Array, "B ..."]:
    """The guided output from that of `split_guidance`'s rows."""
    if halves:
        negative, positive = jnp.split(output, 2)
    else:
        pairs = output.reshape(-1, 2, *output.shape[1:])
        negative, positive = pairs[:, 0], pairs[:, 1]
    return negative + scale * (positive - negative)


def positive_rows(rows: Float[Array, "2B ..."], halves: bool) -> Float[Array, "B ..."]:
    """Of what both branches of guidance have, in `split_guidance`'s order, that of the prompt."""
    return jnp.split(rows, 2)[1] if halves else rows[1::2]


def check_rows(
    mesh: jax.sharding.Mesh, side: jax.sharding.Mesh | None, batch: int, halves: bool
) -> None:
    """Raises BadInput where the mesh's `data` axis does not divide the batch, or the doubled
    one."""
    data = mesh.shape["data"]
    if halves and (data % 2 or 2 * batch % data):
        raise BadInput(
            f"generator.cfg_parallel: data={data} of the mesh must be even and divide 2 *"
            f" generator.batch_size = {2 * batch}; change either"
        )
    if not halves and batch % data:
        raise BadInput(
            f"generator.batch_size={batch} is not a multiple of data={data} of the mesh; change either"
        )
    if side is not None and batch % side.shape["data"]:
        raise BadInput(
            f"generator.batch_size={batch} is not a multiple of data={side.shape['data']} of the VAE's"
            " mesh"
        )
