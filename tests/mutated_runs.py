"""Kinds of damaged inputs of test_mutations.py that are not models: configurations, records and
other files of work directories, videos, and the answers of endpoints.

Generator and rewards are those of fakes.py, so that a command takes a fraction of a second.
"""

import base64
import collections
import functools
import json
from pathlib import Path

import numpy as np

from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.config import load
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.main import main
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import SegmentFolder, write_jsonl
from pav_jax.video import files
from tests.chat_server import completion
from tests.endpoint_server import Endpoint
from tests.fakes import FakeGenerator, FakeSuite, unit_number
from tests.mutations import (
    Kind,
    answer_of,
    mutate_answer,
    mutate_binary,
    mutate_config_file,
    mutate_json,
    mutate_options,
    mutate_records,
)
from tests.video.odd_files import moving_square, write

CONFIG = """\
from pathlib import Path

from pav_jax import defaults


def get_config():
    config = defaults.get_config()
    config.rounds = 1
    config.generator.path = "tests.fakes:FakeGenerator"
    config.generator.batch_size = 4
    config.rewards.entries = {"fake": {"kind": "tests.fakes:FakeReward"}}
    config.rewards.weights = {"AES": 1.0, "TVA": 1.0}
    config.proposers.local.share = 0.0
    config.proposers.lexicon.share = 1.0
    config.proposers.lexicon.first_round = 1
    config.evolve.max_prompts = 4
    config.evolve.rounds = 1
    config.evolve.num_rewrites = 2
    config.trust.max_prompts = 2
    config.trust.seeds = (0, 1)
    config.trust.num_corrupted = 1
    config.trust.num_resamples = 100
    # changes
    return config
"""
HTTP_GENERATOR = """\
config.generator.path = "{url}/generate"
    config.generator.endpoint.max_retries = 0
    config.generator.endpoint.max_consecutive_failures = 1
    config.generator.endpoint.timeout_s = 5.0
    config.generator.options = {{"folder": str(Path(__file__).parent)}}"""
CHAT = """\
config.proposers.lexicon.share = 0.0
    config.proposers.chat.share = 1.0
    config.proposers.chat.base_url = "{url}/v1"
    config.proposers.chat.model = "m"
    config.proposers.chat.api_key_env = ""
    config.proposers.chat.max_retries = 0
    config.proposers.chat.max_consecutive_failures = 1
    config.proposers.chat.timeout_s = 5.0
    config.proposers.chat.options = {{"extra_body": {{"folder": str(Path(__file__).parent)}}}}"""
MOTION = """\
config.rewards.entries = {"motion": {}}
    config.rewards.weights = {"DD": 1.0}
    config.rewards.constraints = {}"""
DAMAGED_SHARE = 0.5  # of the prompts whose videos come from the answer


@functools.cache
def _endpoint_url() -> str:
    """The address of an endpoint whose answer is in the `folder` that a request names."""

    def answer(_: int, body: dict) -> tuple[int, str, bytes]:
        prompt = body.get("prompt", "")
        if prompt and unit_number(prompt) > DAMAGED_SHARE:  # videos must depend on their prompts
            value = int(200 * unit_number(prompt, body["seed"]))
            return 200, "", files.mp4_bytes(np.full((2, 16, 16, 3), value, np.uint8), 8)
        status, content = answer_of(Path(body["folder"]))
        return status, "application/json", content

    endpoint = Endpoint(answer, about=lambda body: "", path="", files=_EmptyFiles({"/": b""}))
    return endpoint.url


class _EmptyFiles(collections.UserDict):
    def __missing__(self, name: str) -> bytes:
        return b""


def write_config(folder: Path, changes: str = "") -> None:
    (folder / "config.py").write_text(CONFIG.replace("# changes", changes or "# no changes"))


def make_configuration(folder: Path) -> None:
    """A configuration file and the work directory of its evolution."""
    write_config(folder)
    (folder / "options.txt").write_text("--config.seed=0")
    run = folder / "run"
    assert main(["evolve", f"--config={folder / 'config.py'}", f"--workdir={run}"]) == 0


def make_pool(folder: Path) -> None:
    """A work directory that does not say of which configuration it is."""
    make_configuration(folder)
    (folder / "run" / "config.json").unlink()


def make_workdir(folder: Path) -> None:
    """A work directory with the files of all stages but boosters."""
    make_configuration(folder)
    run = folder / "run"
    for stage in ("select", "trust"):
        assert main([stage, f"--workdir={run}"]) == 0
    prompts = ("a cat runs", "rain on a window")
    evaluate(
        load(folder / "config.py"),
        {name: lambda texts, seed: [f"{text} now" for text in texts] for name in ("base", "dpo_1")},
        {"near": PromptSet(prompts, prompts)},
        FakeGenerator(),
        FakeSuite(),
        run,
        training_prompts=["a dog"],
    )
    candidates = [
        Candidate(f"{i}", "a dog", f"a dog {i}", 1, i, (), "x", 0, {"AES": float(i), "TVA": 0.5})
        for i in range(3)
    ]
    SegmentFolder(run / "round_1" / "candidates", Candidate).write(candidates)
    pairs = [Preference("a dog", "a dog 2", "a dog 0", 2.0)]
    write_jsonl(run / "round_1" / "preferences.jsonl", pairs)
    lines = [{"step": step, "loss": 1 / step, "rewards/accuracies": 0.5} for step in (1, 2, 3)]
    (run / "round_1" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    preview = {
        "keep": 0.5,
        "relative_cost": 0.1,
        "num_previews": 4,
        "num_videos": 2,
        "saved": 0.4,
        "num_groups": 1,
        "rank_correlation": 0.5,
        "best_selected": 1.0,
        "mean_loss": 0.0,
    }
    (run / "preview.json").write_text(json.dumps(preview))


def make_video(folder: Path) -> None:
    write_config(folder, MOTION)
    write(folder / "video.mp4", moving_square())


def make_video_answer(folder: Path) -> None:
    write_config(folder, HTTP_GENERATOR.format(url=_endpoint_url()))
    (folder / "answer.mp4").write_bytes(files.mp4_bytes(np.full((2, 16, 16, 3), 9, np.uint8), 8))


def make_json_answer(folder: Path) -> None:
    write_config(folder, HTTP_GENERATOR.format(url=_endpoint_url()))
    video = files.mp4_bytes(np.full((2, 16, 16, 3), 9, np.uint8), 8)
    answer = {"video": base64.b64encode(video).decode(), "id": 1, "more": {"seconds": [1.0]}}
    (folder / "answer.json").write_text(json.dumps(answer))


def make_chat_answer(folder: Path) -> None:
    write_config(folder, CHAT.format(url=_endpoint_url()))
    texts = (f"a red ball on grass, golden light {i}" for i in range(3))
    text = "".join(f"<PROMPT>{text}</PROMPT>" for text in texts)
    (folder / "answer.json").write_text(completion(text, usage={"total_tokens": 9}))


def make_prompts(folder: Path) -> None:
    write_config(folder, 'config.evolve.prompts = str(Path(__file__).parent / "prompts.jsonl")')
    rows = [{"prompt": f"a dog runs {i}", "oracle": "a brown dog runs"} for i in range(3)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def select(folder: Path, _: Path) -> list[str]:
    return ["select", f"--workdir={folder / 'run'}"]


def select_with_option(folder: Path, out: Path) -> list[str]:
    word = (folder / "options.txt").read_text(encoding="utf-8", errors="surrogatepass")
    return [*select_with_file(folder, out), word]


def select_with_file(folder: Path, _: Path) -> list[str]:
    return ["select", f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}"]


def report(folder: Path, _: Path) -> list[str]:
    return ["report", f"--workdir={folder / 'run'}"]


def evolve(folder: Path, out: Path) -> list[str]:
    return ["evolve", f"--config={folder / 'config.py'}", f"--workdir={out}"]


def continue_evolve(folder: Path, _: Path) -> list[str]:
    return ["evolve", f"--workdir={folder / 'run'}"]


def score(folder: Path, _: Path) -> list[str]:
    video = folder / "video.mp4"
    config = folder / "config.py"
    return ["score", str(video), "--prompts=a square moves", "--no-cache", f"--config={config}"]


EVOLVED = ["run/pool/*.jsonl", "run/pool/proposals/*.jsonl"]
RESULTS = ["run/evaluation.json", "run/trust.json", "run/preview.json", "run/config.json"]
RECORDS = [
    "run/sft_pairs.jsonl",
    "run/evaluation/measurements.jsonl",
    "run/round_1/*.jsonl",
    "run/round_1/candidates/*.jsonl",
]
RUN_KINDS = {
    "work directory's configuration": Kind(
        make_configuration, ["run/config.json"], mutate_json, select, 30
    ),
    "--config.FIELD": Kind(make_pool, ["options.txt"], mutate_options, select_with_option, 40),
    "--config": Kind(make_pool, ["config.py"], mutate_config_file, select_with_file, 25),
    "pool": Kind(make_configuration, ["run/pool/*.jsonl"], mutate_records, select, 20),
    "evolution": Kind(make_configuration, EVOLVED, mutate_records, continue_evolve, 15),
    "spent.json": Kind(
        make_configuration, ["run/logs/spent.json"], mutate_json, continue_evolve, 10
    ),
    "results": Kind(make_workdir, RESULTS, mutate_json, report, 25),
    "records": Kind(make_workdir, RECORDS, mutate_records, report, 18),
    "prompts": Kind(make_prompts, ["prompts.jsonl"], mutate_records, evolve, 12),
    "video": Kind(make_video, ["video.mp4"], mutate_binary, score, 25),
    "generator's video": Kind(make_video_answer, ["answer.mp4"], mutate_answer, evolve, 15),
    "generator's JSON": Kind(make_json_answer, ["answer.json"], mutate_answer, evolve, 15),
    "chat answer": Kind(make_chat_answer, ["answer.json"], mutate_answer, evolve, 20),
}
