"""A checkpoint of published size goes to the mesh without ever lying whole on the host."""

import json

import numpy as np
import pytest

from pav_jax.models.cogvideox import transformer_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig
from pav_jax.storage.json_files import write_json
from tests.cpu_devices import run_on_cpu_devices
from tests.video.tiny_pipeline import random_model

SHARDS = 3
# CogVideoX-2B with six more layers; the parts beside it are tiny
SIZES = CogVideoXConfig(
    num_layers=36,
    in_channels=4,
    out_channels=4,
    text_embed_dim=16,
    max_text_seq_length=8,
    sample_width=8,
    sample_height=4,
    sample_frames=5,
    temporal_compression_ratio=2,
)
PROGRAM = """
import json, sys
import jax
from pav_jax.parallel.mesh import make_mesh
from pav_jax.video import VideoModel
from tests.peak_memory import peak_memory
model = VideoModel.from_pretrained(sys.argv[1], dtype="bfloat16", mesh=make_mesh(fsdp=4, tensor=2))
leaves = jax.tree.leaves(model.params)
held = sum(part.data.nbytes for leaf in leaves for part in leaf.addressable_shards)
print(json.dumps([peak_memory(), held]))
"""


def write_sparse(folder, config, shards):
    """Zeros under the names of a checkpoint, as sparse files that take no disk space;
    returns their sizes."""
    shapes = transformer_hf.param_shapes(config)
    tensors = {}
    for row in transformer_hf.weights(config):
        leaf = shapes
        for key in row.path.split("/"):
            leaf = leaf[key]
        tensors |= dict.fromkeys(
            row.hf_names(), row.to_hf(leaf.shape[1:] if row.layers else leaf.shape)
        )
    total = sum(2 * int(np.prod(shape)) for shape in tensors.values())
    files = {}
    headers = [{} for _ in range(shards)]
    used = [0] * shards
    for name, shape in tensors.items():
        i = min(shards * sum(used) // total, shards - 1)
        size = 2 * int(np.prod(shape))
        headers[i][name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [used[i], used[i] + size],
        }
        used[i] += size
        files[name] = f"{transformer_hf.STEM}-{i + 1:05d}-of-{shards:05d}.safetensors"
    for i, (header, size) in enumerate(zip(headers, used, strict=True), 1):
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(
            folder / f"{transformer_hf.STEM}-{i:05d}-of-{shards:05d}.safetensors", "wb"
        ) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size)
    write_json(
        folder / f"{transformer_hf.STEM}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": files},
    )
    return used


@pytest.mark.slow
def test_from_pretrained_host_memory(tmp_path):
    random_model(0, {"_class_name": "CogVideoXDDIMScheduler"}).save_pretrained(tmp_path)
    for path in (tmp_path / "transformer").iterdir():
        path.unlink()
    write_json(tmp_path / "transformer" / "config.json", transformer_hf.config_to_hf(SIZES))
    sizes = write_sparse(tmp_path / "transformer", SIZES, SHARDS)
    assert sum(sizes) > 4e9
    output = run_on_cpu_devices(8, PROGRAM, tmp_path)
    peak, held = json.loads(output.splitlines()[-1])
    print(
        f"peak {peak / 1e9:.2f} GB, on devices {held / 1e9:.2f} GB, largest shard"
        f" {max(sizes) / 1e9:.2f} GB"
    )
    assert held >= sum(sizes)
    assert peak - held < 1.3 * max(sizes)
