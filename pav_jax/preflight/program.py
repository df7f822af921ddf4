"""The programs that `pav check` compiles, traced from shapes, and where model sizes come from.

Sizes come from the config.json of a local model folder. For other models they come from
`published/`: copies of the config.json files that the authors published, under the last part of
their Hugging Face Hub names.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pav_jax.checkpoints import embedded, hub
from pav_jax.checkpoints.folder import Layout
from pav_jax.errors import BadInput
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.storage.folders import partial_copy

PROGRAMS = ("sft", "dpo", "sample", "generator", "rewards")  # names in config.check.programs
CONFIG_ENDINGS = (".json", ".jinja", ".model", ".txt")  # of configurations and tokenizers
PUBLISHED = Path(__file__).parent / "published"


@dataclasses.dataclass(frozen=True)
class CostedPhase:
    """What is costed on its own: a whole program, or the parts outside and inside of its loop with
    an unknown trip count.

    Attributes:
      name: what the report calls it.
      flops: floating point operations of one run by formula, over all chips; None without a
        formula.
      num_runs: how often a run of the whole configuration executes it.
    """

    name: str
    flops: float | None
    num_runs: float


@dataclasses.dataclass(frozen=True)
class Program:
    """One program to compile.

    Attributes:
      batch: what one run processes, in words.
      phases: one, or two: the program without its loop of unknown trip count, and one iteration of
        that loop.
      trace: traces the program; raises BadInput if the mesh does not fit it.
      num_chips: chips that it runs on; None: the whole mesh.
      earlier_results: shapes, with shardings, of what earlier programs returned and what stays in
        memory while this one runs, besides its arguments.
    """

    batch: str
    phases: tuple[CostedPhase, ...]
    trace: Callable[[], jax.stages.Traced]
    num_chips: int | None = None
    earlier_results: Sequence[jax.ShapeDtypeStruct] = ()

    @property
    def name(self) -> str:
        """The names of its phases."""
        return " and ".join(phase.name for phase in self.phases)


def param_shapes(layout: Layout, config: Any, dtype: Any, mesh: Mesh) -> dict:
    """The shapes of a model's parameters as `dtype`, with the shardings of their logical axes.

    Args:
      layout: the module `hf` of the model.
      config: the model's configuration.
    """
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)), layout.param_shapes(config)
    )
    shardings = sharding_rules.shardings(logical_axes(layout.weights(config)), shapes, mesh)
    return sharding_rules.sharded_shapes(shapes, shardings)


def batch_shape(shape: Sequence[int], dtype: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape of an array whose first axis is the batch, sharded over `mesh`."""
    axes = ("batch", *(None,) * (len(shape) - 1))
    sharding = sharding_rules.sharding(axes, shape, mesh)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def config_folder(path: str, field: str) -> Path:
    """Finds the folder with a model's config.json; of one in an object store, weights stay there.

    Args:
      path: a folder, `mini:NAME`, or the Hub name of a model with published sizes.
      field: the configuration field that holds `path`, for the error.

    Raises:
      BadInput: there is neither such a folder nor a published config.json.
    """
    if path.startswith(embedded.PREFIX):
        return hub.local_folder(path)
    folder = partial_copy(path, CONFIG_ENDINGS)
    if folder.is_dir():
        return folder
    published = PUBLISHED / folder.name
    if published.is_dir():
        return published
    names = ", ".join(sorted(entry.name for entry in PUBLISHED.iterdir()))
    raise BadInput(
        f"{field}={path}: no such folder, and not one of the models whose sizes come with pav"
        f" ({names}); give a folder with its config.json",
        field=field.removeprefix("config."),
    )
