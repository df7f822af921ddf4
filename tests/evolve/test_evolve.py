"""Evolution: the same pool whatever was interrupted, and no finished work done again."""

import errno
import logging
import os
import threading

import numpy as np
import pytest
import rich.progress

from pav_jax import records
from pav_jax.candidates import store as pool_module
from pav_jax.errors import BadInput
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposers import Proposer, make_proposers
from pav_jax.records import Candidate, Proposal
from pav_jax.storage import records as storage_records
from pav_jax.storage.records import read_segments
from tests.fakes import PROMPTS, Generator, Rewriter, Suite, config


def run(
    workdir,
    generator=None,
    suite=None,
    rewriter=None,
    proposers=None,
    settings=None,
    prompts=PROMPTS,
):
    settings = settings or config()
    return evolve(
        settings,
        prompts,
        proposers or make_proposers(settings, rewriter or Rewriter()),
        generator or Generator(),
        suite or Suite(),
        workdir,
    )


def lines(workdir) -> list[str]:
    return [records.to_json(c) for c in read_segments(workdir / "pool", Candidate)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder)
    return lines(folder)


class Stop(Exception):
    """Stands for a kill: nothing is cleaned up that a kill would not leave."""


def stop_after(monkeypatch, k: int, error: type[Exception] = Stop):
    """Lets `k` files be written, then fails every write."""
    real, left, lock = storage_records.write_atomic, [k], threading.Lock()

    def write_atomic(path, data):
        with lock:
            if left[0] == 0:
                raise error()
            left[0] -= 1
        real(path, data)

    monkeypatch.setattr(storage_records, "write_atomic", write_atomic)


def test_every_round_breeds_from_the_best_of_the_rounds_before(tmp_path):
    seen = {}

    class Watching(Proposer):
        name = "watching"

        def propose(self, requests):
            for r in requests:
                seen[r.prompt, r.round] = r
            return [[f"{r.prompt}, round {r.round} take {i}" for i in range(r.n)] for r in requests]

    run(tmp_path, proposers=Watching())
    pool = read_segments(tmp_path / "pool", Candidate)
    assert len(pool) == len(PROMPTS) * (1 + 2 * 3)
    suite = Suite()
    for prompt in PROMPTS:
        rows = {c.key: c for c in pool if c.prompt == prompt}
        assert [c.refined for c in rows.values() if c.round == 0] == [prompt]
        assert len({c.seed for c in rows.values()}) == 1
        for round in (1, 2):
            request = seen[prompt, round]
            earlier = [c for c in rows.values() if 0 < c.round < round]
            best = sorted(earlier, key=lambda c: -suite.overall(c.scores))[:2]
            assert [text for text, _ in request.history] == [prompt, *(c.refined for c in best)]
            assert request.history[0][1] == next(c.scores for c in rows.values() if c.round == 0)
            for child in (c for c in rows.values() if c.round == round):
                assert [rows[k].refined for k in child.parents] == [
                    prompt,
                    *(c.refined for c in best),
                ]
    assert len({c.seed for c in pool}) == len(PROMPTS)


def test_videos_are_scored_against_the_users_prompt_at_one_batch_size(tmp_path):
    generator, asked = Generator(), []

    class Watching(Suite):
        def score(self, videos, prompts, refined=None):
            asked.extend(zip(prompts, refined, strict=True))
            return super().score(videos, prompts, refined)

    run(tmp_path, generator, Watching())
    assert set(generator.sizes) == {4}
    pool = read_segments(tmp_path / "pool", Candidate)
    assert {(c.prompt, c.refined) for c in pool} == set(asked)


def test_stopped_at_every_write_the_pool_ends_the_same_and_nothing_is_made_twice(
    tmp_path, monkeypatch, undisturbed
):
    total = sum(1 for _ in _segments_of_a_whole_run(tmp_path / "count"))
    for k in range(total):
        folder, first, second = tmp_path / str(k), Generator(), Generator()
        with monkeypatch.context() as patch:
            stop_after(patch, k)
            with pytest.raises(Stop):
                run(folder, first)
        kept = {(c.refined, c.seed) for c in read_segments(folder / "pool", Candidate)}
        run(folder, second)
        assert lines(folder) == undisturbed
        assert not kept & set(second.made)
        assert len(kept) + len(second.made) == len(undisturbed)


def _segments_of_a_whole_run(folder):
    run(folder)
    return folder.rglob("*.jsonl")


def test_a_run_stopped_again_and_again_still_ends_the_same(tmp_path, monkeypatch, undisturbed):
    for _ in range(60):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            try:
                run(tmp_path)
                break
            except Stop:
                pass
    assert lines(tmp_path) == undisturbed


def test_rewrites_of_an_endpoint_that_never_says_the_same_twice_are_kept(tmp_path, monkeypatch):
    calls = []

    def answer(prompt, k, seed):
        calls.append(prompt)
        return f"{prompt}, call {len(calls)}"

    total = sum(1 for _ in _segments_of_a_whole_run(tmp_path / "count"))
    for k in range(0, total, 3):
        folder = tmp_path / str(k)
        with monkeypatch.context() as patch:
            stop_after(patch, k)
            with pytest.raises(Stop):
                run(folder, rewriter=Rewriter(answer))
        proposed = {p.key: p for p in read_segments(folder / "pool" / "proposals", Proposal)}
        run(folder, rewriter=Rewriter(answer))
        after = {p.key: p for p in read_segments(folder / "pool" / "proposals", Proposal)}
        assert proposed.items() <= after.items()
        pool = read_segments(folder / "pool", Candidate)
        assert {(c.prompt, c.refined) for c in pool} == {
            (p.prompt, r) for p in after.values() for r in p.refined
        }


def test_a_record_cut_in_half_is_made_again_and_only_that(tmp_path, undisturbed):
    run(tmp_path)
    segment = sorted((tmp_path / "pool").glob("*.jsonl"))[3]
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) - 40])
    generator = Generator()
    run(tmp_path, generator)
    assert lines(tmp_path) == undisturbed
    assert len(generator.made) == 1 and generator.sizes == [4]


def test_a_finished_pool_is_left_alone(tmp_path):
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.jsonl")}
    generator, rewriter = Generator(), Rewriter()
    run(tmp_path, generator, rewriter=rewriter)
    assert not generator.made and not rewriter.asked
    assert {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.jsonl")} == before


def test_a_full_disk_at_any_write_is_bad_input_and_loses_nothing(
    tmp_path, monkeypatch, undisturbed
):
    total = sum(1 for _ in _segments_of_a_whole_run(tmp_path / "count"))
    for k in range(0, total, 2):
        folder, left, real = tmp_path / str(k), [k], os.fsync

        def fsync(descriptor, left=left, real=real):
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(BadInput, match="no space left"):
                run(folder)
        assert not list(folder.rglob("*.part"))
        run(folder)
        assert lines(folder) == undisturbed


def test_a_score_that_is_not_a_number_marks_the_candidate_and_it_is_never_shown(tmp_path):
    shown = []

    class Watching(LocalProposer):
        def propose(self, requests):
            shown.extend(text for r in requests for text, _ in r.history[1:])
            return super().propose(requests)

    run(tmp_path / "a")
    bad = [c for c in read_segments(tmp_path / "a" / "pool", Candidate) if c.round == 1][::2]
    suite = Suite(nan=[c.refined for c in bad])
    run(tmp_path / "b", suite=suite, proposers=Watching(Rewriter()))
    pool = read_segments(tmp_path / "b" / "pool", Candidate)
    marked = [c for c in pool if c.error]
    assert {c.refined for c in marked} == {c.refined for c in bad}
    assert all(c.error == "no score: TVA" and np.isnan(c.scores["TVA"]) for c in marked)
    assert not {c.refined for c in marked} & set(shown)


def test_a_video_that_is_not_finite_marks_its_candidate_alone(tmp_path):
    pool = run(tmp_path, Generator(dtype=np.float32, broken=[PROMPTS[1]]))
    assert [c.refined for c in pool if c.error] == [PROMPTS[1]]
    assert next(c.error for c in pool if c.error) == "the video is not finite"


@pytest.mark.parametrize("keep", ["all", "best", "none"])
def test_kept_videos_are_the_same_after_a_restart_and_paths_are_relative(
    tmp_path, monkeypatch, keep
):
    written = []
    monkeypatch.setattr(
        pool_module, "write_mp4", lambda path, video, fps, **_: written.append((str(path), fps))
    )
    settings = config(evolve__keep_videos=keep)
    run(tmp_path / "a", settings=settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Stop):
            run(tmp_path / "b", settings=settings)
    run(tmp_path / "b", settings=settings)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    pool = read_segments(tmp_path / "b" / "pool", Candidate)
    kept = [c for c in pool if c.video]
    assert all(
        c.video == f"videos/{c.key}.mp4" and (str(tmp_path / "b" / c.video), 8) in written
        for c in kept
    )
    count = {"all": len(pool), "none": 0}.get(keep)
    assert len(kept) == count if count is not None else len(PROMPTS) <= len(kept) < len(pool)
    if keep == "best":
        suite = Suite()
        for prompt in PROMPTS:
            best = max(
                (c for c in pool if c.prompt == prompt), key=lambda c: suite.overall(c.scores)
            )
            assert best.video


def test_proposals_are_made_while_a_batch_generates(tmp_path):
    asked_twice, generating = threading.Event(), threading.Event()

    class Waiting(Generator):
        def generate(self, prompts, *, seed):
            if any("take" in p for p in prompts):
                generating.set()
                assert asked_twice.wait(30), (
                    "no later proposal was asked for while this batch was being made"
                )
            return super().generate(prompts, seed=seed)

    class Slow(Rewriter):
        def generate(self, prompts, num_return_sequences=1, seed=0, **sampling):
            if len(self.asked) >= 4:
                assert generating.wait(30)
                asked_twice.set()
            return super().generate(prompts, num_return_sequences, seed, **sampling)

    run(tmp_path, Waiting(), rewriter=Slow())


def test_a_pool_of_another_generator_or_seed_is_refused(tmp_path):
    run(tmp_path)
    other = Generator()
    other.fingerprint = "other"
    with pytest.raises(BadInput, match="another generator or seed"):
        run(tmp_path, other)
    settings = config()
    settings.seed = 8
    with pytest.raises(BadInput, match="another generator or seed"):
        run(tmp_path, settings=settings)


def test_progress_reaches_its_end_and_each_round_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    class Lazy(Proposer):
        def propose(self, requests):
            return [[f"{r.prompt} {r.round}"] for r in requests]

    progress = rich.progress.Progress(disable=True)
    for _ in range(2):  # the second time everything is there already
        evolve(config(), PROMPTS, Lazy(), Generator(), Suite(), tmp_path, progress)
    assert all(task.finished and task.total == len(PROMPTS) * 7 for task in progress.tasks)
    assert len(progress.tasks) == 2
    rounds = [r.message for r in caplog.records if r.message.startswith("evolve round")]
    assert (
        len(rounds) == 6
        and "best so far" in rounds[1]
        and "videos/s" in rounds[1]
        and "s left" in rounds[1]
    )


def test_records_hold_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "write_mp4", lambda *args, **_: None)
    run(tmp_path, settings=config(evolve__keep_videos="all"))
    assert all(str(tmp_path) not in p.read_text() for p in tmp_path.rglob("*.jsonl"))


def test_a_proposer_that_gives_nothing_at_all_is_an_error_and_can_be_mended(tmp_path, undisturbed):
    with pytest.raises(BadInput, match="no usable rewrite"):
        run(tmp_path, rewriter=Rewriter(lambda prompt, k, seed: "  "))
    run(tmp_path)
    assert lines(tmp_path) == undisturbed
