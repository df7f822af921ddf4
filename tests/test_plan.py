from pav_jax import config as configuration
from pav_jax.plan import plan_line, plan_run


def test_plan_of_smoke_configuration():
    plans = plan_run(configuration.load("configs/smoke.py"))
    videos = {plan.name: plan.videos for plan in plans if plan.videos}
    assert videos == {
        "evolve": 8 * (1 + 2 * 2),
        "prefer_1": 8 * 3,
        "prefer_2": 8 * 3,
        "evaluate_suffixes": 16,
        "evaluate": 2 * 4 * (5 + 1 + 1),  # systems, suffix, oracle
    }
    assert {p.name: p.steps for p in plans if p.steps} == {"sft": 4, "dpo_1": 4, "dpo_2": 4}
    line = plan_line(plans)
    assert "evolve 40 videos; sft 4 steps (2,048 tokens)" in line
    assert line.endswith("in all 160 videos, 12 steps, 6,144 tokens")


def test_plan_without_videos():
    plans = plan_run(configuration.load("configs/smoke.py"), makes_videos=False)
    assert "evolve 0 videos" in plan_line(plans)
    assert plan_line(plans).endswith("in all 0 videos, 12 steps, 6,144 tokens")
