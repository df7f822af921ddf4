"""The pool starts the videos of the next batch before it scores those of one."""

from pav_jax.candidates.store import Draft, Pool
from pav_jax.video.generator import NOT_FINITE, VideoBatch
from tests.fakes import Generator, Suite


class Ahead(Generator):
    """A generator that can be started; it notes when it is, and when its videos are asked for."""

    def __init__(self):
        super().__init__()
        self.order = []

    def start(self, prompts, seed):
        name = prompts[0]
        self.order.append(f"start {name}")
        videos = self.generate(prompts, seed=seed)
        errors = [NOT_FINITE if prompt.startswith("broken") else None for prompt in prompts]

        def wait():
            self.order.append(f"wait {name}")
            return VideoBatch(videos, errors)

        return wait


def drafts(names):
    return [Draft("a cat", name, 0, i, (), "local") for i, name in enumerate(names)]


def test_the_next_batch_is_started_first_and_a_restart_makes_only_what_is_missing(tmp_path):
    generator = Ahead()
    pool = Pool(generator, Suite(), tmp_path / "pool", tmp_path, seed=0, batch=2)
    settled = pool.score(drafts(["one", "two", "three", "four", "broken five"]), 0)
    assert next(settled) == 2
    assert generator.order == ["start one", "start three", "wait one"]
    assert {c.refined for c in pool.candidates} == {"one", "two"}
    settled.close()  # as if the run was killed here

    again = Ahead()
    pool = Pool(again, Suite(), tmp_path / "pool", tmp_path, seed=0, batch=2)
    assert list(pool.score(drafts(["one", "two", "three", "four", "broken five"]), 0)) == [2, 2, 1]
    assert again.order == ["start three", "start broken five", "wait three", "wait broken five"]
    errors = {c.refined: c.error for c in pool.candidates}
    assert errors.pop("broken five") == NOT_FINITE and set(errors.values()) == {None}
