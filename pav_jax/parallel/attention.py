"""The attention of a model that lies on a mesh: which kernel, and how rows and heads are spread for
it."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from pav_jax.errors import BadInput
from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.attention.flash import cudnn_attention, splash_attention
from pav_jax.parallel.sharding_rules import partition_spec

NAMES = ("auto", "plain", "splash", "cudnn")
BY_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def attention(name: str, mesh: Mesh | None = None) -> Callable[..., jax.Array]:
    """The attention function of that name; auto is splash on TPU, cudnn on GPU, plain elsewhere.

    Raises:
      BadInput: an unknown name.
    """
    if name not in NAMES:
        raise BadInput(f"attention={name!r} is none of {', '.join(NAMES)}")
    if name == "auto":
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        name = BY_PLATFORM.get(platform, "plain")
    if name == "splash":
        spread = (
            None
            if mesh is None or mesh.size == 1
            else functools.partial(on_own_rows_and_heads, mesh)
        )
        return functools.partial(splash_attention, spread=spread)
    return cudnn_attention if name == "cudnn" else dot_product_attention


def on_own_rows_and_heads(
    mesh: Mesh, kernel: Callable[..., jax.Array], arrays: Sequence[jax.Array]
) -> jax.Array:
    """`kernel` inside shard_map, as the table of logical axes says; XLA cannot divide a Pallas
    kernel by itself.

    Args:
      arrays: queries [B, T, N, H], keys and values [B, T, K, H], and, for packed rows, segment ids
        [B, T].
    """
    # heads of queries go with those of the keys they look at
    heads = partition_spec(("batch", None, "kv_heads", None), arrays[1].shape, mesh)
    specs = (heads, heads, heads, partition_spec(("batch", None), arrays[0].shape[:2], mesh))[
        : len(arrays)
    ]
    return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(
        *arrays
    )
