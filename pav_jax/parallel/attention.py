"""Choose the attention function of a language model, and run its kernel on a mesh."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from pav_jax.errors import BadInput
from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.attention.flash import cudnn_attention, splash_attention
from pav_jax.parallel.sharding_rules import partition_spec

NAMES = ("auto", "plain", "splash", "cudnn")
NAME_BY_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def make_attention_fn(name: str, mesh: Mesh | None = None) -> Callable[..., jax.Array]:
    """Return an attention function with the signature of `dot_product_attention`.

    Args:
      name: plain, splash, cudnn, or auto: splash on TPU, cudnn on GPU, plain elsewhere.
      mesh: where the model runs; None means JAX's default device.

    Raises:
      BadInput: an unknown name.
    """
    if name not in NAMES:
        raise BadInput(
            f"attention={name!r} is none of {', '.join(NAMES)}; choose one", field="attention"
        )
    if name == "auto":
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        name = NAME_BY_PLATFORM.get(platform, "plain")
    if name == "plain":
        return dot_product_attention
    if name == "cudnn":
        return cudnn_attention
    if mesh is None or mesh.size == 1:
        return splash_attention
    return functools.partial(
        splash_attention, shard_kernel=functools.partial(shard_rows_and_heads, mesh)
    )


def shard_rows_and_heads(
    mesh: Mesh, kernel: Callable[..., jax.Array], arrays: Sequence[jax.Array]
) -> jax.Array:
    """Run `kernel` in shard_map, so that each device works on its own rows and heads.

    XLA cannot partition a Pallas kernel by itself.

    Args:
      kernel: takes the shards of `arrays`, returns those of the outputs [B, T, N, H].
      arrays: queries [B, T, N, H], keys and values [B, T, K, H], and, for packed rows, segment ids
        [B, T].
    """
    # query heads are sharded like the key heads that they attend to
    heads = partition_spec(("batch", None, "kv_heads", None), arrays[1].shape, mesh)
    segments = partition_spec(("batch", None), arrays[0].shape[:2], mesh)
    specs = (heads, heads, heads, segments)[: len(arrays)]
    sharded = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)
    return sharded(*arrays)
