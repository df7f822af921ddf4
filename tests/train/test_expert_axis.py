"""Stages of a mixture of experts on a mesh axis `expert`, through `pav` on simulated devices: the
losses of one device."""

import functools
import json
import tempfile

import numpy as np
import pytest

from tests.campaigns import by_hand
from tests.cpu_devices import run_on_cpu_devices

PROGRAM = """
import contextlib, json, pathlib, shutil, sys
from pav_jax.main import main
from pav_jax.parallel.mesh import make_mesh
from pav_jax.train import grpo_trainer as grpo
from tests.campaigns import IS_REQUESTED
from tests.fakes import FakeGenerator
from tests.tiny import language_model as tiny
from tests.train import test_grpo_trainer as test_grpo
from tests.train.test_sft_trainer import curve

root = pathlib.Path(sys.argv[1])
base = root / "base"
tiny.make_lm(family="qwen3_moe").save_pretrained(base)
COMMON = [f"--config.rewriter.path={base}", "--config.rewriter.template=None",
          "--config.rewriter.dtype=float32"]
TRAINING = dict(max_steps=3, save_steps=2, batch_size=8, logging_steps=1, max_length=32,
                gradient_accumulation_steps=2, learning_rate=0.03, lr_scheduler_type="constant",
                warmup_ratio=0.0)

def pav(stage, folder, sizes, **options):
    fields = {f"{stage}.{name}": value for name, value in (TRAINING | options).items()}
    fields |= {f"mesh.{axis}": size for axis, size in (dict(data=1) | sizes).items()}
    options = [f"--config.{name}={value}" for name, value in fields.items()]
    with contextlib.redirect_stdout(sys.stderr):
        assert main([stage, "--config=mini", f"--workdir={folder}", *COMMON, *options]) == 0

def prepare(folder, booster=False):
    (folder / "round_1").mkdir(parents=True)
    tiny.write_pairs(folder / "sft_pairs.jsonl")
    tiny.write_preferences(folder / "round_1" / "preferences.jsonl")
    if booster:
        shutil.copytree(root / "lora 1" / "sft" / "booster", folder / "sft" / "booster")
    return folder

def losses(folder):
    return list(map(float, curve(folder)[1]))

MESHES = {"1": {}, "2x2": dict(data=2, expert=2)}
if IS_REQUESTED:
    MESHES["2"] = dict(expert=2)
curves = {}
for name, sizes in MESHES.items():
    folder = prepare(root / f"lora {name}")
    pav("sft", folder, sizes)
    curves["sft", name] = losses(folder / "sft")
    folder = prepare(root / f"dpo {name}", booster=True)
    pav("dpo", folder, sizes)
    curves["dpo", name] = losses(folder / "round_1")
for name in ("1", "2x2"):
    folder = prepare(root / f"full {name}")
    pav("sft", folder, MESHES[name], full_finetuning=True, remat=False)
    curves["full", name] = losses(folder / "sft")
    (root / f"grpo {name}").mkdir()
    prompts = root / "prompts.txt"
    prompts.write_text("\\n".join(test_grpo.PROMPTS))
    lm = tiny.make_lm(make_mesh(**MESHES[name]), family="qwen3_moe")
    config = test_grpo.make_config(max_steps=2, batch_size=16, save_steps=None)
    grpo.run(config, lm, prompts, FakeGenerator(), test_grpo.make_suite(), root / f"grpo {name}")
    curves["grpo", name] = losses(root / f"grpo {name}")

# the last step again, from a checkpoint of another mesh
folder = root / "lora 1"
shutil.rmtree(folder / "sft" / "checkpoints" / "3")
shutil.rmtree(folder / "sft" / "booster")
config = json.loads((folder / "config.json").read_text())
config["mesh"] |= MESHES["2x2"]
(folder / "config.json").write_text(json.dumps(config))
pav("sft", folder, MESHES["2x2"])
curves["restored", "2x2"] = losses(folder / "sft")
curves["restored", "1"] = curves["sft", "1"]
print(json.dumps([[*key, values] for key, values in curves.items()]))
"""


@functools.cache
def run_on_meshes():
    """Losses by stage and mesh."""
    with tempfile.TemporaryDirectory() as folder:
        rows = json.loads(run_on_cpu_devices(4, PROGRAM, folder).splitlines()[-1])
    return {(stage, mesh): losses for stage, mesh, losses in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, mesh",
    [
        pytest.param("sft", "2", marks=by_hand),
        ("sft", "2x2"),
        pytest.param("dpo", "2", marks=by_hand),
        ("dpo", "2x2"),
        ("full", "2x2"),
        ("grpo", "2x2"),
        ("restored", "2x2"),
    ],
)
def test_stage_on_expert_axis(stage, mesh):
    curves = run_on_meshes()
    assert len(curves[stage, "1"]) == (2 if stage == "grpo" else 3)
    np.testing.assert_allclose(curves[stage, mesh], curves[stage, "1"], atol=1e-4, rtol=0)
