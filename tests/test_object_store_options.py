"""Every option of every command that names a file or folder, with addresses of object stores."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from pav_jax.booster.adapter_folders import shipped
from pav_jax.checkpoints import embedded
from pav_jax.commands import check
from pav_jax.main import main, parser
from pav_jax.parallel.chips import CHIPS
from pav_jax.preflight import libtpu, topology
from pav_jax.rewards import i3d_features
from pav_jax.storage.addresses import as_path, filesystem
from pav_jax.storage.files import write_atomic
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.video.files import write_mp4
from tests import campaigns
from tests.commands.test_fvd import ColourFeatures
from tests.report.compared_videos import make_votes, write_measurements

pytestmark = pytest.mark.slow

ROOT = embedded.CHECKPOINTS
# whose help speaks of a file, but whose value is none
OTHER_OPTIONS = {"--max-shard-size"}
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
REWARDS = """
from pathlib import Path
from pav_jax.config import load
def get_config(path="mini:clip"):
    config = load(Path(__file__).with_name("base.py"))
    config.rewards.entries = {"aesthetic": {"path": path, "frames": 2}}
    config.rewards.weights = {"AES": 1.0}
    config.rewards.thresholds = {}
    config.rewards.constraints = {}
    config.rewards.held_out = ()
    return config
"""
BASE = "from pav_jax.defaults import get_config\n"


def upload(folder, address):
    """Upload a folder as a user does, without a marker."""
    filesystem(address).put(str(folder), address.rstrip("/"), recursive=True)


@pytest.fixture
def address(store, tmp_path, monkeypatch):
    """A folder in the store with all inputs; the current folder is empty."""
    root = f"{store.address}/options"
    if not as_path(f"{root}/prompts.txt").exists():
        for name in ("rewriter", "generator", "clip"):
            upload(ROOT / name, f"{root}/{name}")
        with as_path(f"{root}/picture.png").open("wb") as file:
            Image.new("RGB", (4, 4)).save(file, "png")
        upload(ROOT / "rewriter", f"{root}/sft/booster")
        for name in ("a", "b"):
            for i in range(2):
                video = np.full((4, 32, 32, 3), 60 + 40 * i, np.uint8)
                write_mp4(f"{root}/videos_{name}/{i}.mp4", video, 8)
        for name, text in {
            "prompts.txt": "a red ball\na blue star\n",
            "prompt.txt": "a red ball\n",
            "template.jinja": TEMPLATE,
            "configs/rewards.py": REWARDS,
            "configs/base.py": BASE,
        }.items():
            write_atomic(f"{root}/{name}", text.encode())
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield root
    assert not list(folder.iterdir())  # such as a folder called gs:


def pav(capsys, address, *words, status=0):
    """The lines that a command prints; {a} in its words is the address."""
    assert main([word.format(a=address) for word in words]) == status, capsys.readouterr().err
    out, err = capsys.readouterr()
    return (out if status == 0 else err).splitlines()


def test_all_options_are_here():
    """Each option of the command line whose help speaks of a file or folder is tested below."""
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    words = ("file", "folder", "FILE", "DIR", "FOLDER", "VIDEO")
    missing = set()
    for group in parser()._subparsers._group_actions:
        for name, command in group.choices.items():
            for action in command._actions:
                shown = f"{action.help} {action.metavar}"
                option = action.option_strings[-1] if action.option_strings else action.dest
                is_path = any(word in shown for word in words) and option not in OTHER_OPTIONS
                if is_path and option.startswith("--") and f"{option}=" not in text:
                    missing.add((name, option))
    assert not missing


def test_refine(address, capsys):
    embedded_model = pav(capsys, address, "refine", "a red ball", "--model=mini:rewriter")
    # as for embedded models
    words = ("refine", "{a}/prompts.txt", "--model={a}/rewriter", "--mode=off")
    lines = pav(capsys, address, *words)
    assert len(lines) == 2 and lines[0] == embedded_model[0]
    assert len(pav(capsys, address, *words, "--template={a}/template.jinja")) == 2
    (line, _) = pav(capsys, address, *words, "--json", "--image={a}/picture.png")
    assert json.loads(line)["image"] == f"{address}/picture.png"


@pytest.mark.parametrize("kind", ["mp4", "gif", "frames", "png"])
def test_generate(address, capsys, kind):
    words = ["generate", "{a}/prompt.txt", "--out={a}/made", f"--format={kind}"]
    words += ["--model={a}/generator", "--num-inference-steps=1", "--dtype=float32"]
    if kind == "png":
        words.append("--num-frames=1")
    (path,) = pav(capsys, address, *words)
    assert path.startswith(f"{address}/made/")
    assert as_path(path).is_dir() if kind == "frames" else as_path(path).is_file()


@pytest.mark.parametrize("name,message", [("picture", "texts alone"), ("none", "no such file")])
def test_generate_image(address, capsys, name, message):
    words = ["generate", "{a}/prompt.txt", "--out={a}/made", "--model={a}/generator"]
    (line,) = pav(capsys, address, *words, f"--image={{a}}/{name}.png", status=2)
    assert message in line


def test_score(address, capsys):
    words = ("score", "{a}/videos_a/0.mp4", "{a}/videos_a/1.mp4", "--prompts={a}/prompts.txt")
    words += ("--config={a}/configs/rewards.py:{a}/clip", "--cache={a}/scores", "--json")
    lines = pav(capsys, address, *words)
    assert [json.loads(line)["video"] for line in lines] == [
        f"{address}/videos_a/{i}.mp4" for i in (0, 1)
    ]
    entries = filesystem(address).find(f"{address}/scores")
    assert len(entries) == 2
    assert pav(capsys, address, *words) == lines
    assert filesystem(address).find(f"{address}/scores") == entries


def test_fvd(address, capsys, monkeypatch):
    (line,) = pav(
        capsys, address, "fvd", "{a}/videos_a", "{a}/videos_b", "--weights={a}/none.ckpt", status=2
    )
    assert f"{address}/none.ckpt: no such file" in line
    monkeypatch.setattr(i3d_features, "I3DFeatures", ColourFeatures)
    (line,) = pav(capsys, address, "fvd", "{a}/videos_a", "{a}/videos_b", "--frames=2")
    assert line.startswith("FVD 0.000, 2 and 2 videos")


def test_export(address, capsys, tmp_path):
    out = f"{address}/{tmp_path.name}"
    command = ("export", "--from={a}/rewriter", "--dtype=float32", f"--out={out}-hf")
    assert pav(capsys, address, *command) == [f"{out}-hf"]
    lines = [
        pav(capsys, address, "refine", "a red ball", f"--model={model}", "--mode=off")
        for model in ("mini:rewriter", f"{out}-hf")
    ]
    assert lines[0] == lines[1]
    again = pav(capsys, address, "export", "--from={a}/rewriter", f"--out={out}-hf", status=2)
    assert "already exists" in again[0]


@pytest.fixture
def tiny_gguf(address, tmp_path):
    """A .gguf file of random weights in the store."""
    tests = pytest.importorskip("tests.checkpoints.test_gguf")
    path = f"{address}/{tmp_path.name}/tiny.gguf"
    tests.write_gguf(tmp_path / "tiny.gguf", tests.torch_model(0))
    write_atomic(path, (tmp_path / "tiny.gguf").read_bytes())
    return path


def test_gguf(address, capsys, tiny_gguf):
    out = tiny_gguf.replace("tiny", "again")
    command = ("export", f"--from={tiny_gguf}", "--to=gguf", "--quantization=f32", f"--out={out}")
    assert pav(capsys, address, *command) == [out]
    models = (tiny_gguf, out)
    lines = [
        pav(capsys, address, "refine", "a red ball", f"--model={path}", "--mode=off")
        for path in models
    ]
    assert lines[0] == lines[1]


def write_adapter(folder):
    from pav_jax.checkpoints import peft
    from pav_jax.language.language_model import LanguageModel
    from pav_jax.language.lora import LoraConfig, init_lora
    from pav_jax.models.decoder import hf

    lm = LanguageModel.from_pretrained("mini:rewriter")
    config = LoraConfig(r=2, lora_alpha=2.0, lora_dropout=0.0, target_modules=("q_proj",))
    lora = init_lora(lm.params, config, jax.random.key(0))
    peft.write_adapter(folder, hf.weights(lm.config), lora, 2, 2.0, 0.0, "mini:rewriter")


def test_export_adapters(address, capsys, tmp_path):
    write_adapter(tmp_path / "adapter")
    upload(tmp_path / "adapter", f"{address}/sft/adapter")
    out = f"{address}/{tmp_path.name}"
    pav(capsys, address, "export", "--from={a}/sft/booster", "--to=peft", f"--out={out}-peft")
    assert read_json(f"{out}-peft/adapter_config.json")["r"] == 2
    merge = (
        "export",
        "--dtype=float32",
        "--from={a}/rewriter",
        "--adapter={a}/sft/adapter",
        f"--out={out}-merged",
    )
    pav(capsys, address, *merge)
    assert as_path(f"{out}-merged/model.safetensors").is_file()
    lines = pav(capsys, address, "adapters", "list", f"{out}-peft", "{a}/sft")
    names = ["name", *shipped(), f"{tmp_path.name}-peft", "adapter"]
    assert [line.split()[0] for line in lines] == names
    (by_merged,) = pav(capsys, address, "refine", "a red ball", f"--model={out}-merged")
    (by_adapter,) = pav(capsys, address, "refine", "a red ball", "--adapter={a}/sft/adapter")
    assert by_adapter == by_merged


def test_export_reward(address, capsys, tmp_path):
    converters = pytest.importorskip("tests.checkpoints.test_converters")
    file = tmp_path / "clip.pt"
    state = converters.as_open_clip(converters.tiny_clip().state_dict())
    converters.torch.save(state, file)
    source = f"{address}/{tmp_path.name}/clip.pt"
    write_atomic(source, file.read_bytes())
    write_atomic(f"{address}/{tmp_path.name}/tokenizer.json", b'{"x": 1}')
    config = {"model_cfg": {"quick_gelu": True}}
    write_json(f"{address}/{tmp_path.name}/open_clip_config.json", config)
    out = f"{address}/{tmp_path.name}/out"
    pav(capsys, address, "export", f"--from={source}", "--to=pav", f"--out={out}-1")
    assert read_json(f"{out}-1/tokenizer.json") == {"x": 1}
    assert read_json(f"{out}-1/config.json")["text_config"]["hidden_act"] == "quick_gelu"
    command = ("export", f"--from={source}", "--to=pav", f"--out={out}-2", "--tokenizer={a}/clip")
    pav(capsys, address, *command, "--activation=gelu")
    assert read_json(f"{out}-2/tokenizer.json") == read_json(ROOT / "clip" / "tokenizer.json")


def test_cache_curve(address, capsys, tmp_path, store):
    folder = f"{address}/{tmp_path.name}/generator"
    shutil.copytree(ROOT / "generator", tmp_path / "generator")
    upload(tmp_path / "generator", folder)
    before = read_json(f"{folder}/pav_generation.json")
    words = ("--count=1", "--num-inference-steps=2")
    (curve,) = pav(capsys, address, "cache-curve", folder, "{a}/prompt.txt", *words)
    after = read_json(f"{folder}/pav_generation.json")
    assert after == before | {"cache_ratios": json.loads(curve)}
    assert pav(capsys, address, "cache-curve", folder, "{a}/prompt.txt", *words, "--dry") == [curve]


CHECK_CONFIG = """
from pav_jax import defaults
def get_config(address):
    config = defaults.get_config()
    config.rewriter.path = address + "/rewriter"
    config.generator.path = address + "/generator"
    with config.unlocked():
        config.rewards.entries = {"aesthetic": {"path": address + "/clip", "frames": 2}}
        config.rewards.weights = {"AES": 1.0}
        config.rewards.thresholds = {}
        config.rewards.constraints = {}
    return config
"""


def sent_bytes(store, name):
    """Bytes that the store has sent of objects whose names contain `name`."""
    return sum(count for path, count in store.proxy.sent if name in path)


def test_check_reads_no_weights(address, capsys, store, monkeypatch, tiny_gguf):
    local = topology.Topology("v5e:1x1", CHIPS["v5e"], (1, 1), 1, jax.devices()[:1])
    monkeypatch.setattr(topology, "describe_topology", lambda name, num_slices: local)
    built = []
    monkeypatch.setattr(libtpu, "require_libtpu", lambda: None)
    monkeypatch.setattr(check, "_examine", lambda programs, *_: built.extend(programs) or [])
    write_atomic(f"{address}/configs/check.py", CHECK_CONFIG.encode())
    store.proxy.sent.clear()
    words = ("check", "--config={a}/configs/check.py:{a}", "--topology=v5e:1x1", "--json")
    pav(capsys, address, *words)
    assert len(built) > 5
    assert sent_bytes(store, "safetensors") == 0
    assert 0 < sum(count for _, count in store.proxy.sent) < 2**20
    monkeypatch.setattr("pav_jax.storage.folders.HEAD_BYTES", 2**10)
    path = f"--config.rewriter.path={tiny_gguf}"
    pav(capsys, address, *words, path, "--config.check.programs=('sft',)")
    whole = filesystem(address).size(tiny_gguf)
    assert 0 < sent_bytes(store, "tiny.gguf") < whole
    source = "--rewriter-config={a}/rewriter/config.json"
    pav(capsys, address, "check", "--topology=v5e:1x1", "--programs=sft", source, "--json")


def test_configuration_of_errors(address, capsys):
    for text, message in (
        ("def get_config():\n    return 1 / 0\n", "2: division by zero"),
        ("x = (\n", "1: '(' was never closed"),
        ("x = 1\n", " defines no get_config()"),
        ("def get_config():\n    return 3\n", " get_config() returned int"),
    ):
        name = f"configs/{abs(hash(text))}.py"
        write_atomic(f"{address}/{name}", text.encode())
        command = ("score", "x.mp4", "--prompts=x", f"--config={{a}}/{name}", "--no-cache")
        (line,) = pav(capsys, address, *command, status=2)
        assert line.startswith(f"pav score: {address}/{name}:{message}"), line
    scheme = address.partition("://")[0]
    names = (f"{address}/configs/none.py", f"{address}/configs/none", f"{address}/nowhere/x.py")
    for name in (*names, f"{scheme}://missing/x.py"):
        command = ("score", "x.mp4", "--prompts=x", f"--config={name}", "--no-cache")
        (line,) = pav(capsys, address, *command, status=2)
        assert "no such file" in line and os.path.dirname(name) in line


STAGES = {
    "evolve": ("pool",),
    "calibrate": ("calibration.json",),
    "trust": ("trust.json",),
    "grpo": ("grpo/booster/model.safetensors", "grpo/metrics.jsonl"),
    "evaluate": ("evaluation.json",),
    "report": ("report/index.html",),
}
# these load a generator of the store, which takes seconds
WITH_MODEL = ("evolve", "calibrate")
NO_MODEL = ("path=tests.fakes:FakeGenerator", "num_inference_steps=None")
STAGE_CONFIG = (
    REWARDS.replace(
        "return config",
        """config.rewriter.path = address + "/rewriter"
    config.rewriter.template = address + "/template.jinja"
    config.rewriter.max_new_tokens = 8
    config.generator.path = address + "/generator"
    config.generator.num_inference_steps = 1
    for section in (config.evolve, config.prefer, config.grpo, config.trust):
        section.prompts = address + "/prompts.txt"
        section.max_prompts = 2
    config.evolve.rounds = 1
    config.evolve.num_rewrites = 1
    config.proposers.local.max_new_tokens = 8
    config.grpo.max_steps = 1
    config.grpo.faith_weight = 0.0
    config.grpo.batch_size = 2
    config.grpo.num_generations = 2
    config.grpo.gradient_accumulation_steps = 1
    config.grpo.max_completion_length = 8
    config.grpo.start = "base"
    config.trust.seeds = (0, 1)
    config.trust.num_corrupted = 1
    config.trust.num_resamples = 10
    config.evaluate.num_resamples = 10
    config.evaluate.controls = False
    config.evaluate.systems = ("original", "mine", "file")
    with config.unlocked():
        config.evaluate.prompts = {"mine": address + "/prompts.txt"}
        config.evaluate.rewrite_files = {
            "mine": address + "/rewriter", "file": address + "/rewrites.jsonl"
        }
    return config""",
    )
    .replace('path="mini:clip"', "address")
    .replace('"path": path', '"path": address + "/clip"')
)


def test_report_votes(address, capsys, tmp_path):
    workdir = as_path(f"{address}/{tmp_path.name}")
    write_measurements(workdir)
    write_atomic(f"{workdir}/config.json", b'{"seed": 0}')
    (page,) = pav(capsys, address, "report", f"--workdir={workdir}", "--votes-page")
    assert page.startswith(f"{workdir}/report/")
    votes = "\n".join(make_votes(workdir, ["my_booster"] * 5))
    write_atomic(f"{workdir}/downloads/a.jsonl", votes.encode())
    pav(capsys, address, "report", f"--workdir={workdir}", f"--votes={workdir}/downloads/a.jsonl")
    assert read_json(f"{workdir}/votes.json")["votes"] == 5


def test_stages(address, capsys, tmp_path):
    if address.startswith("s3") and not campaigns.IS_REQUESTED:
        pytest.skip(campaigns.REASON)
    write_atomic(f"{address}/configs/stages.py", STAGE_CONFIG.encode())
    rewrites = [{"prompt": p, "refined": f"{p} rolls"} for p in ("a red ball", "a blue star")]
    write_atomic(f"{address}/rewrites.jsonl", "\n".join(map(json.dumps, rewrites)).encode())
    for stage, names in STAGES.items():
        workdir = f"{address}/{tmp_path.name}/{'model' if stage in WITH_MODEL else 'fake'}"
        words = [stage, "--config={a}/configs/stages.py:{a}", f"--workdir={workdir}"]
        if stage not in WITH_MODEL:
            words += [f"--config.generator.{option}" for option in NO_MODEL]
        pav(capsys, address, *words)
        for name in names:
            assert as_path(f"{workdir}/{name}").exists(), (stage, name)
