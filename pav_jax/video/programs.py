"""What a family runs on devices, as programs: encode texts, denoise, decode. Text encoder and VAE
may have devices of their own; then the VAE decodes one batch while the next is denoised. The VAE
has several programs, each for a piece of the videos (see `decoding`).

Shapes: B videos, S text tokens, ... the axes of one latent or text; T, H, W frames, height, width
in pixels.
"""

import collections
import functools
import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from pav_jax.errors import BadInput
from pav_jax.parallel import sharding_rules
from pav_jax.video import sampling

AUXILIARY_COMPONENTS = ("text_encoder", "vae")  # may have devices of their own
MAX_CACHED_TEXTS = 256  # embeddings; one of T5-XXL takes 1.9 MB


class Programs:
    """A family's programs, compiled on first use, once for each combination of shapes.

    Args:
      mesh: of the denoiser; None: one device.
      auxiliary_mesh: of `AUXILIARY_COMPONENTS`; None: the same as `mesh`.
      swap_denoisers: the family has several denoisers, whose parameters stay on the host; each is
        copied to the devices for its steps of a batch.
    """

    def __init__(
        self,
        family: Any,
        mesh: Mesh | None = None,
        auxiliary_mesh: Mesh | None = None,
        swap_denoisers: bool = False,
    ):
        self.family = family
        self.swap_denoisers = swap_denoisers
        self.mesh = mesh
        self.auxiliary_mesh = auxiliary_mesh or mesh
        # Devices that are threads of one CPU wait for each other inside a program. If two programs
        # run at once, each may hold a thread that the other waits for.
        self._run_sequentially = any(
            m is not None and m.size > 1 and m.devices.flat[0].platform == "cpu"
            for m in (self.mesh, self.auxiliary_mesh)
        )
        self._decoders: dict[Callable, Callable] = {}
        self._cached_texts: collections.OrderedDict[bytes, Array] = collections.OrderedDict()

    def shard_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of every component on its mesh; swapped denoisers stay on the host."""
        on_host = self.family.denoisers if self.swap_denoisers else ()
        sharded = {name: jax.device_get(tree) for name, tree in params.items() if name in on_host}
        others = {name: tree for name, tree in params.items() if name not in on_host}
        return sharded | self._copy_to_devices(others)

    def _copy_to_devices(self, params: Mapping[str, Any]) -> dict[str, Any]:
        axes = self.family.axes()
        sharded = {}
        for name, tree in params.items():
            mesh = self.auxiliary_mesh if name in AUXILIARY_COMPONENTS else self.mesh
            if mesh is None:
                sharded[name] = jax.tree.map(jnp.asarray, tree)
            else:
                sharded[name] = sharding_rules.shard(tree, axes[name], mesh)
        return sharded

    # ------------------------------------------------------------------------------- text

    def clear_cache(self) -> None:
        """Forget the cached embeddings of texts."""
        self._cached_texts.clear()

    def encode_texts(
        self, params: Mapping, token_ids: Int[np.ndarray, "N S"], rows: int
    ) -> Float[Array, "N ..."]:
        """The embeddings of N texts; the `MAX_CACHED_TEXTS` last used ones are cached.

        Args:
          rows: texts in one run of the encoder.
        """
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in token_ids]
        missing = {key: i for i, key in enumerate(keys) if key not in self._cached_texts}
        indices = list(missing.values())
        encoded: dict[bytes, Array] = {}
        for start in range(0, len(indices), rows):
            batch = indices[start : start + rows]
            padded = batch + batch[-1:] * (rows - len(batch))
            output = self.encoder(
                {"text_encoder": params["text_encoder"]},
                shard_batch(token_ids[padded], self.auxiliary_mesh),
            )
            encoded |= {keys[i]: self._wait(output[row]) for row, i in enumerate(batch)}
        texts = {key: encoded[key] if key in encoded else self._cached_texts[key] for key in keys}
        for key, text in texts.items():
            self._cached_texts[key] = text
            self._cached_texts.move_to_end(key)
        while len(self._cached_texts) > MAX_CACHED_TEXTS:
            self._cached_texts.popitem(last=False)
        return self._wait(shard_batch(jnp.stack([texts[key] for key in keys]), self.mesh))

    @functools.cached_property
    def encoder(self) -> Callable:
        """(params, token ids) -> embeddings."""
        return jax.jit(self.family.encode_text)

    # ---------------------------------------------------------------------------- denoise

    def denoise(
        self,
        params: Mapping,
        text: Float[Array, "B ..."],
        negative: Float[Array, "B ..."] | None,
        latents: Float[np.ndarray, "B ..."] | None,
        keys_B: Key[Array, "B"],
        scales: Float[np.ndarray, "steps"],
        latent_shape: tuple[int, ...],
        decoded_latent_frames: int,
        step_schedule: Any = None,
    ) -> Float[Array, "B ..."]:
        """Noise to clean latents.

        Args:
          negative: embeddings of the other branch; None: no guidance.
          latents: initial noise; None: drawn from the keys.
          scales: guidance scale of each step.
          latent_shape: [t, h, w, C].
          decoded_latent_frames: how many of the last latent frames are returned.
          step_schedule: a `StepSchedule`; None: every step does everything.
        """
        params = {name: tree for name, tree in params.items() if name not in AUXILIARY_COMPONENTS}
        if latents is not None:
            latents = shard_batch(latents, self.mesh)
        arguments = (text, negative, latents, keys_B, scales)
        static = dict(
            latent_shape=latent_shape,
            decoded_latent_frames=decoded_latent_frames,
            step_schedule=step_schedule,
        )
        if self.swap_denoisers:
            return self._denoise_in_parts(params, arguments, static)
        return self._wait(self.denoiser(params, *arguments, **static))

    def _denoise_in_parts(self, params: Mapping, arguments: tuple, static: dict) -> Array:
        """As `denoise`, with one denoiser on the devices at a time."""
        result: Any = None
        for part in self.family.denoiser_steps(len(arguments[-1])):
            weights = self._copy_to_devices({part.denoiser: params[part.denoiser]})
            # the memory of one denoiser is free only when its steps are done
            result = jax.block_until_ready(
                self.part_denoiser(weights, result, *arguments, part=part, **static)
            )
            del weights
        return result

    @functools.cached_property
    def denoiser(self) -> Callable:
        """See `denoise`."""
        return jax.jit(
            functools.partial(_denoise, self.family),
            static_argnames=("latent_shape", "decoded_latent_frames", "step_schedule"),
        )

    @functools.cached_property
    def part_denoiser(self) -> Callable:
        """The steps of one of several denoisers: see `_denoise_part`."""
        return jax.jit(
            functools.partial(_denoise_part, self.family),
            static_argnames=("part", "latent_shape", "decoded_latent_frames", "step_schedule"),
        )

    # ----------------------------------------------------------------------------- decode

    def decode(
        self, params: Mapping, latents: Float[Array, "B ..."], tiled: bool
    ) -> tuple[UInt8[Array, "B T H W 3"], Bool[Array, "B"]]:
        """(frames, which videos have neither NaN nor infinity)."""
        if self.auxiliary_mesh is not self.mesh:
            latents = shard_batch(latents, self.auxiliary_mesh)
        return self.family.decode({"vae": params["vae"]}, latents, tiled, self._run)

    def _run(self, name: str, function: Callable[..., Any], *arguments: Any, **static: Any) -> Any:
        """See `decoding.Run`."""
        return self._wait(self.decoder(function)(*arguments, **static))

    def decoder(self, function: Callable[..., Any]) -> Callable:
        """The program of a function that the family's `decode` runs."""
        if function not in self._decoders:
            parameters = inspect.signature(function).parameters.values()
            self._decoders[function] = jax.jit(
                function,
                static_argnames=[p.name for p in parameters if p.kind is p.KEYWORD_ONLY],
                donate_argnames=[p.name for p in parameters if p.name == "cache"],
            )
        return self._decoders[function]

    def _wait(self, arrays: Any) -> Any:
        """Waits for the arrays if the next program must not start before."""
        return jax.block_until_ready(arrays) if self._run_sequentially else arrays


def _denoise(
    family: Any,
    params: Mapping,
    text: Array,
    negative: Array | None,
    latents: Array | None,
    keys_B: Array,
    scales: Array,
    *,
    latent_shape: tuple[int, ...],
    decoded_latent_frames: int,
    step_schedule: Any = None,
) -> Array:
    if latents is None:
        latents = sampling.noise(keys_B, 0, latent_shape)
    clean = family.denoise(params, latents, text, negative, keys_B, scales, step_schedule)
    return clean[:, -decoded_latent_frames:]


def _denoise_part(
    family: Any,
    params: Mapping,
    carry: tuple[Any, Array] | None,
    text: Array,
    negative: Array | None,
    latents: Array | None,
    keys_B: Array,
    scales: Array,
    *,
    part: Any,
    latent_shape: tuple[int, ...],
    decoded_latent_frames: int,
    step_schedule: Any = None,
) -> Any:
    """The steps of one denoiser.

    Args:
      carry: the result of the preceding steps; None: these are the first.
      part: the family's `DenoiserSteps`.

    Returns:
      What the next steps take as `carry`; after the last one, clean latents.
    """
    if carry is None:
        if latents is None:
            latents = sampling.noise(keys_B, 0, latent_shape)
        carry = family.start(latents, scales)
    carry = family.denoise_part(params, carry, text, negative, keys_B, scales, step_schedule, part)
    assert carry is not None
    return carry[1][:, -decoded_latent_frames:] if part.stop == scales.shape[0] else carry


def component_shardings(
    mesh: Mesh | None, auxiliary_mesh: Mesh | None, on_host: Collection[str] = ()
) -> Callable[[str], Callable | None]:
    """Maps a component's name to the `where` argument of `checkpoints.folder.load`, so that weights
    are read straight to their devices, or those of `on_host` to the host."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def where(name: str) -> Callable | None:
        if name in on_host:
            return None
        own_mesh = mesh
        if name in AUXILIARY_COMPONENTS:
            own_mesh = auxiliary_mesh or mesh
        if own_mesh is None:
            return lambda axes, shape: one_device
        return functools.partial(sharding_rules.sharding, mesh=own_mesh)

    return where


def shard_batch(rows: Any, mesh: Mesh | None) -> Any:
    """The rows on the mesh, sharded along the batch as far as the mesh divides it."""
    if mesh is None:
        return rows
    spec = sharding_rules.partition_spec(("batch",) + (None,) * (rows.ndim - 1), rows.shape, mesh)
    return jax.device_put(rows, NamedSharding(mesh, spec))


def check_swapping(family: Any) -> None:
    """Raises BadInput if a family, or its class, has a single denoiser."""
    if len(family.denoisers) < 2:
        raise BadInput(
            "swap_experts: this model has one denoiser, so that there is nothing to swap; leave it"
            " out",
            source="generator",
            field="swap_experts",
        )


def check_batch_size(
    mesh: Mesh, auxiliary_mesh: Mesh | None, batch_size: int, cfg_parallel: bool
) -> None:
    """Raises BadInput if the meshes' `data` axes do not divide the batch, which `cfg_parallel`
    doubles."""
    data = mesh.shape["data"]
    if cfg_parallel and (data % 2 or 2 * batch_size % data):
        raise BadInput(
            f"generator.cfg_parallel: data={data} of the mesh must be even and divide 2 *"
            f" generator.batch_size = {2 * batch_size}; change one of them",
            source="generator",
            field="cfg_parallel",
        )
    divisors = [] if cfg_parallel else [(data, "the mesh")]
    if auxiliary_mesh is not None:
        divisors.append((auxiliary_mesh.shape["data"], "the VAE's mesh"))
    for size, name in divisors:
        if batch_size % size:
            raise BadInput(
                f"generator.batch_size={batch_size} is not a multiple of data={size} of {name};"
                " change one of them",
                source="generator",
                field="batch_size",
            )
