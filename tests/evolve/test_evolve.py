"""Evolution ends with the same pool after any interruption, and repeats no finished work."""

import errno
import logging
import os
import threading

import numpy as np
import pytest
import rich.progress

from pav_jax import records
from pav_jax.candidates import pool as pool_module
from pav_jax.candidates.options import RANKINGS
from pav_jax.candidates.ranking import Ranking
from pav_jax.candidates.scoring import overall_scores
from pav_jax.errors import BadInput
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposer import Proposer
from pav_jax.evolve.registry import build_mixture
from pav_jax.records import Candidate, Proposal
from pav_jax.rewards.suite import HELD_OUT
from pav_jax.storage import records as storage_records
from pav_jax.storage.records import read_segments
from tests.fakes import PROMPTS, FakeGenerator, FakeLanguageModel, FakeSuite, make_config

WEIGHTS = {"AES": 1.0, "TVA": 1.0}


def run(workdir, generator=None, suite=None, language_model=None, proposers=None, config=None):
    config = config or make_config()
    language_model = language_model or FakeLanguageModel()
    return evolve(
        config,
        PROMPTS,
        proposers or build_mixture(config, lambda: language_model),
        generator or FakeGenerator(),
        suite or FakeSuite(),
        workdir,
    )


def read_pool(workdir) -> list[Candidate]:
    return read_segments(workdir / "pool", Candidate)


def pool_lines(workdir) -> list[str]:
    return [records.to_json(c) for c in read_pool(workdir)]


def overall(candidate) -> float:
    return overall_scores([candidate], WEIGHTS)[0]


class Watching(Proposer):
    """Writes numbered rewrites and keeps the requests."""

    name = "watching"

    def __init__(self):
        self.requests = {}

    def propose(self, requests):
        self.requests |= {(r.prompt, r.round): r for r in requests}
        return [[f"{r.prompt} {r.round} take {i}" for i in range(r.num_rewrites)] for r in requests]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The lines of an uninterrupted pool, and the number of its files."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return pool_lines(folder), len(list(folder.rglob("*.jsonl")))


class StopError(Exception):
    """Stands for a kill: nothing is cleaned up that a kill would not leave."""


def stop_after(monkeypatch, num_writes: int):
    """Let so many files be written, then fail every write."""
    write_atomic = storage_records.write_atomic
    remaining = [num_writes]
    lock = threading.Lock()

    def stopping_write(path, data):
        with lock:
            if remaining[0] == 0:
                raise StopError
            remaining[0] -= 1
        write_atomic(path, data)

    monkeypatch.setattr(storage_records, "write_atomic", stopping_write)


def test_evolve_history_is_best_of_earlier_rounds(tmp_path):
    proposer = Watching()
    pool = run(tmp_path, proposers=proposer)
    assert len(pool) == len(PROMPTS) * (1 + 2 * 3)
    assert len({c.seed for c in pool}) == len(PROMPTS)
    for prompt in PROMPTS:
        rows = {c.key: c for c in pool if c.prompt == prompt}
        assert [c.refined for c in rows.values() if c.round == 0] == [prompt]
        assert len({c.seed for c in rows.values()}) == 1
        own = next(c for c in rows.values() if c.round == 0)
        for round in (1, 2):
            request = proposer.requests[prompt, round]
            earlier = [c for c in rows.values() if 0 < c.round < round]
            best = [c.refined for c in sorted(earlier, key=lambda c: -overall(c))[:2]]
            assert [text for text, _ in request.history] == [prompt, *best]
            assert request.history[0][1] == own.scores
            for child in (c for c in rows.values() if c.round == round):
                assert [rows[key].refined for key in child.parents] == [prompt, *best]


def test_evolve_scores_against_prompt_in_full_batches(tmp_path):
    generator = FakeGenerator()
    scored = []

    class WatchedSuite(FakeSuite):
        def score(self, videos, prompts, refined=None, fps=None):
            scored.extend(zip(prompts, refined, strict=True))
            return super().score(videos, prompts, refined, fps)

    suite = WatchedSuite()
    pool = run(tmp_path, generator, suite)
    assert set(generator.batch_sizes) == set(suite.batch_sizes) == {4}
    assert {(c.prompt, c.refined) for c in pool} == set(scored)


def test_evolve_stopped_at_every_write(tmp_path, monkeypatch, expected):
    lines, num_files = expected
    for k in range(num_files):
        folder = tmp_path / str(k)
        with monkeypatch.context() as patch:
            stop_after(patch, k)
            with pytest.raises(StopError):
                run(folder)
        finished = {(c.refined, c.seed) for c in read_pool(folder)}
        generator = FakeGenerator()
        run(folder, generator)
        assert pool_lines(folder) == lines
        assert not finished & set(generator.made)
        assert len(finished) + len(generator.made) == len(lines)


def test_evolve_stopped_after_each_write(tmp_path, monkeypatch, expected):
    for _ in range(60):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            try:
                run(tmp_path)
                break
            except StopError:
                pass
    assert pool_lines(tmp_path) == expected[0]


def test_evolve_recorded_proposals_are_used(tmp_path, monkeypatch, expected):
    """With a proposer that never writes the same text twice."""
    calls = []

    def reply(prompt, k, seed):
        calls.append(prompt)
        return f"{prompt}, call {len(calls)}"

    for k in range(0, expected[1], 3):
        folder = tmp_path / str(k)
        with monkeypatch.context() as patch:
            stop_after(patch, k)
            with pytest.raises(StopError):
                run(folder, language_model=FakeLanguageModel(reply))
        proposals = folder / "pool" / "proposals"
        before = {p.key: p for p in read_segments(proposals, Proposal)}
        pool = run(folder, language_model=FakeLanguageModel(reply))
        after = {p.key: p for p in read_segments(proposals, Proposal)}
        assert before.items() <= after.items()
        assert {(c.prompt, c.refined) for c in pool} == {
            (p.prompt, text) for p in after.values() for text in p.refined
        }


def test_evolve_record_cut_in_half(tmp_path, expected):
    run(tmp_path)
    segment = sorted((tmp_path / "pool").glob("*.jsonl"))[3]
    segment.write_bytes(segment.read_bytes()[:-40])
    generator = FakeGenerator()
    run(tmp_path, generator)
    assert pool_lines(tmp_path) == expected[0]
    assert len(generator.made) == 1 and generator.batch_sizes == [4]


def test_evolve_finished_pool(tmp_path):
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.jsonl")}
    generator = FakeGenerator()
    language_model = FakeLanguageModel()
    run(tmp_path, generator, language_model=language_model)
    assert not generator.made and not language_model.requests
    assert {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.jsonl")} == before


def test_evolve_disk_full_at_any_write(tmp_path, monkeypatch, expected):
    lines, num_files = expected
    fsync = os.fsync
    for k in range(0, num_files, 2):
        folder = tmp_path / str(k)
        remaining = [k]

        def full_fsync(descriptor, remaining=remaining):
            if remaining[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            remaining[0] -= 1
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_fsync)
            with pytest.raises(BadInput, match="no space left"):
                run(folder)
        assert not list(folder.rglob("*.part"))
        run(folder)
        assert pool_lines(folder) == lines


def test_evolve_failed_candidate_is_never_shown(tmp_path):
    shown = []

    class WatchingLocal(LocalProposer):
        def propose(self, requests):
            shown.extend(text for r in requests for text, _ in r.history[1:])
            return super().propose(requests)

    failing = {c.refined for c in run(tmp_path / "a") if c.round == 1 and c.index == 0}
    proposer = WatchingLocal(FakeLanguageModel())
    pool = run(tmp_path / "b", suite=FakeSuite(nan=failing), proposers=proposer)
    failed = [c for c in pool if c.error]
    assert {c.refined for c in failed} == failing
    assert all(c.error == "no score: TVA" and np.isnan(c.scores["TVA"]) for c in failed)
    assert shown and not failing & set(shown)


def test_evolve_failed_video(tmp_path):
    pool = run(tmp_path, FakeGenerator(np.float32, broken=[PROMPTS[1]]))
    failed = [(c.refined, c.error) for c in pool if c.error]
    assert failed == [(PROMPTS[1], "the video is not finite")]


@pytest.mark.parametrize("keep", ["all", "best", "none"])
def test_evolve_kept_videos_after_restart(tmp_path, monkeypatch, keep):
    written = []
    monkeypatch.setattr(
        pool_module, "write_mp4", lambda path, video, fps, audio: written.append((str(path), fps))
    )
    config = make_config(evolve__keep_videos=keep)
    run(tmp_path / "a", config=config)
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(StopError):
            run(tmp_path / "b", config=config)
    pool = run(tmp_path / "b", config=config)
    assert pool_lines(tmp_path / "a") == pool_lines(tmp_path / "b")
    saved = [c for c in pool if c.video]
    for c in saved:
        assert c.video == f"videos/{c.key}.mp4"
        assert (str(tmp_path / "b" / c.video), 8) in written
    if keep == "best":
        assert len(PROMPTS) <= len(saved) < len(pool)
        for prompt in PROMPTS:
            assert max((c for c in pool if c.prompt == prompt), key=overall).video
    else:
        assert len(saved) == {"all": len(pool), "none": 0}[keep]


def test_evolve_proposes_while_generating(tmp_path):
    proposed_again = threading.Event()
    generating = threading.Event()

    class Waiting(FakeGenerator):
        def generate(self, prompts, *, seed):
            if any("take" in p for p in prompts):
                generating.set()
                assert proposed_again.wait(120), "nothing was proposed while this batch was made"
            return super().generate(prompts, seed=seed)

    class Slow(FakeLanguageModel):
        def generate(self, prompts, num_return_sequences=1, seed=0, **sampling):
            if len(self.requests) >= 4:
                assert generating.wait(120)
                proposed_again.set()
            return super().generate(prompts, num_return_sequences, seed, **sampling)

    run(tmp_path, Waiting(), language_model=Slow())


def test_evolve_progress_and_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    class OneRewrite(Proposer):
        def propose(self, requests):
            return [[f"{r.prompt} {r.round}"] for r in requests]

    progress = rich.progress.Progress(disable=True)
    arguments = (OneRewrite(), FakeGenerator(), FakeSuite(), tmp_path, progress)
    for _ in range(2):  # everything is recorded the second time
        evolve(make_config(), PROMPTS, *arguments)
    assert len(progress.tasks) == 2
    assert all(task.finished and task.total == len(PROMPTS) * 7 for task in progress.tasks)
    rounds = [r.message for r in caplog.records if r.message.startswith("evolve round")]
    assert len(rounds) == 6
    assert "best so far" in rounds[1] and "10 candidates, 0 failed" in rounds[1]
    assert "videos/s" in rounds[1] and rounds[1].endswith("s left")
    assert all(line.endswith("all videos cached") for line in rounds[3:])


def test_evolve_records_hold_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "write_mp4", lambda *args, audio: None)
    run(tmp_path, config=make_config(evolve__keep_videos="all"))
    assert all(str(tmp_path) not in p.read_text() for p in tmp_path.rglob("*.jsonl"))


def test_evolve_without_any_rewrite(tmp_path, expected):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, language_model=FakeLanguageModel(lambda prompt, k, seed: "  "))
    assert caught.value.field == "proposers"
    run(tmp_path)
    assert pool_lines(tmp_path) == expected[0]


@pytest.mark.parametrize("method", RANKINGS)
def test_evolve_history_order_without_held_out_scores(tmp_path, method):
    class WatchedSuite(FakeSuite):
        def score(self, videos, prompts, refined=None, fps=None):
            scores = super().score(videos, prompts, refined, fps)
            return scores | {HELD_OUT + "VQ": np.full(len(videos), np.nan)}

    proposer = Watching()
    config = make_config(evolve__ranking=method)
    pool = run(tmp_path, suite=WatchedSuite(), proposers=proposer, config=config)
    assert not any(c.error for c in pool)  # a held-out evaluator without a score fails nothing
    histories = {key: request.history for key, request in proposer.requests.items()}
    for history in histories.values():
        assert not any(n.startswith(HELD_OUT) for _, scores in history for n in scores)
    ranking = Ranking(method, WEIGHTS)
    for prompt in PROMPTS:
        rows = [c for c in pool if c.prompt == prompt and c.round == 1]
        keys = ranking.keys([c.scores for c in rows], overall_scores(rows, WEIGHTS))
        ordered = sorted(zip(keys, rows, strict=True), key=lambda row: (row[0], row[1].key))
        best = [c.refined for _, c in ordered[:2]]
        assert [text for text, _ in histories[prompt, 2]] == [prompt, *best]


@pytest.mark.parametrize(
    "options, infeasible_first",
    [
        ({}, True),
        ({"constraints": {"FAITH": 0.5}}, False),
        ({"ranking": "pareto"}, False),
        ({"ranking": "pareto", "constraints": {}}, True),
    ],
)
def test_evolve_history_feasible_first(tmp_path, options, infeasible_first):
    class PartlyUnfaithful(FakeSuite):
        """Rewrites that end with 0 score high but are not faithful."""

        def score(self, videos, prompts, refined=None, fps=None):
            scores = super().score(videos, prompts, refined, fps)
            unfaithful = np.asarray([r.endswith("0") for r in refined])
            aes = np.where(unfaithful, scores["AES"] + 9, scores["AES"])
            return scores | {"AES": aes, "FAITH": np.where(unfaithful, 0.1, 1.0)}

    suite = PartlyUnfaithful()
    suite.constraints = {"FAITH": 0.5}
    proposer = Watching()
    config = make_config(**{f"evolve__{name}": value for name, value in options.items()})
    run(tmp_path, suite=suite, proposers=proposer, config=config)
    for (_, round), request in proposer.requests.items():
        if round == 2:
            assert request.history[1][0].endswith("0") == infeasible_first


def test_evolve_reward_hacking_warning(tmp_path, caplog):
    class Wordy(Proposer):
        name = "wordy"

        def propose(self, requests):
            return [
                [f"{r.prompt} {i} " + "word " * 8 * r.round for i in range(r.num_rewrites)]
                for r in requests
            ]

    run(tmp_path, proposers=Wordy())
    warnings = [r.getMessage() for r in caplog.records if "reward" in r.getMessage()]
    assert len(warnings) == 1 and warnings[0].startswith("evolve, round 2: ")


def test_evolve_unknown_ranking(tmp_path):
    generator = FakeGenerator()
    with pytest.raises(BadInput) as caught:
        run(tmp_path, generator, config=make_config(evolve__ranking="best"))
    assert caught.value.field == "evolve.ranking" and not generator.made
