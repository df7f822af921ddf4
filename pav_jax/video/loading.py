"""Loads any generator from a path."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from pav_jax.errors import BadInput
from pav_jax.plugins import import_plugin, is_plugin
from pav_jax.storage.addresses import as_path
from pav_jax.video.backend import DIFFUSERS, is_backend_path
from pav_jax.video.diffusers_generator import DiffusersGenerator
from pav_jax.video.generator import Generator, as_generator
from pav_jax.video.http_generator import HttpGenerator
from pav_jax.video.video_model import VideoModel


def load_generator(
    path: str | os.PathLike,
    dtype: str = "bfloat16",
    mesh: jax.sharding.Mesh | None = None,
    auxiliary_mesh: jax.sharding.Mesh | None = None,
    scheduler: Mapping[str, Any] | str | None = None,
    flow_shift: float | None = None,
    sequence_attention: str = "auto",
    swap_experts: bool = False,
    options: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Generator:
    """Loads the generator that `path` names.

    Args:
      path: a diffusers folder, a Hub name or `mini:generator`: a family that runs in JAX
        (`VideoModel`); `diffusers:FOLDER-OR-HUB-NAME`: any text-to-video or text-to-image pipeline
        of diffusers, on torch's device; `http://...` or `https://...`: any endpoint that keeps to
        the contract in `http_generator.py`; `package.module:Name`: your own `Generator` subclass,
        which `options` are passed to, or function. An image is a video of one frame.
      dtype: of weights and matrix products; the endpoint's own.
      mesh, auxiliary_mesh, scheduler, flow_shift, sequence_attention, swap_experts: see
        `VideoModel.from_pretrained`; of JAX families only.
      options: further arguments of a diffusers pipeline's call, or fields of an endpoint's request.
      endpoint: arguments of `HttpGenerator`.
      settings: fields of `GenerationConfig`.

    Raises:
      BadInput: the path is not a complete generator, or an argument does not fit it.
    """
    if is_plugin(os.fspath(path)):
        return _load_plugin(os.fspath(path), options, settings)
    if not is_backend_path(path):
        if options:
            raise BadInput(
                "generator.options: only diffusers pipelines and HTTP endpoints take options",
                source="generator",
                field="options",
            )
        return VideoModel.from_pretrained(
            path if isinstance(path, str) else as_path(path),
            dtype=dtype,
            mesh=mesh,
            auxiliary_mesh=auxiliary_mesh,
            scheduler=scheduler,
            flow_shift=flow_shift,
            sequence_attention=sequence_attention,
            swap_experts=swap_experts,
            **settings,
        )
    path = os.fspath(path)
    for name, value in (("scheduler", scheduler), ("flow_shift", flow_shift)):
        if value is not None:
            raise BadInput(
                f"generator.{name}={value}: {path} has its own sampler; leave it out",
                source="generator",
                field=name,
            )
    if swap_experts:
        raise BadInput(
            f"generator.swap_experts: {path} does not run in JAX; leave it out",
            source="generator",
            field="swap_experts",
        )
    if path.startswith(DIFFUSERS):
        return DiffusersGenerator.from_pretrained(path, dtype=dtype, options=options, **settings)
    return HttpGenerator.from_pretrained(path, options=options, endpoint=endpoint, **settings)


def _load_plugin(
    path: str, options: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> Generator:
    """The generator `package.module:Name`, a class or a function."""
    target = import_plugin(path, "generator.path")
    if isinstance(target, type):
        generator = as_generator(target(**dict(options or {})))
    else:
        generator = as_generator(target)
    # the batch size is the caller's: a generator takes any number of prompts
    chosen = {name: value for name, value in settings.items() if name != "batch_size"}
    return generator.with_settings(**chosen) if chosen else generator
