"""The programs of a configuration, and the mesh that they are compiled for."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import generator_programs, reward_programs, rewriter_programs
from pav_jax.preflight.program import Program
from pav_jax.preflight.topology import Topology


def rewriter_mesh(config: Any, topology: Topology) -> Mesh:
    """Return the rewriter's mesh over all chips of the topology."""
    sizes = dict(config.mesh)
    if all(size == 1 for size in sizes.values()):  # written for one device: use all chips
        sizes |= {"data": topology.num_slices, "fsdp": -1}
    return make_mesh(**sizes, devices=topology.devices)


def build(config: Any, mesh: Mesh, rewriter_config: str | Path | None = None) -> list[Program]:
    """Return the programs that `config.check.programs` names.

    Args:
      mesh: of the rewriter; generator and rewards run on the chips of its first host.
      rewriter_config: take the rewriter's sizes from this config.json.

    Raises:
      BadInput: a model's configuration is missing or unsupported.
    """
    names = config.check.programs
    programs = []
    if {"sft", "dpo", "sample"} & set(names):
        lm = rewriter_programs.outline(config, mesh, rewriter_config)
        for stage in ("sft", "dpo"):
            if stage in names:
                programs.append(rewriter_programs.training(stage, config, lm))
        if "sample" in names:
            programs.append(rewriter_programs.sampling_program(config, lm))
    host = [device for device in mesh.devices.flat if device.process_index == 0]
    if "generator" in names:
        programs += generator_programs.build(config, host)
    if "rewards" in names:
        programs += reward_programs.build(config, host)
    return programs
