"""Which steps are skipped, as diffusers' MagCache decides it."""

import numpy as np
import pytest

from pav_jax.video.residual_cache import interpolate_ratios, schedule_steps


@pytest.mark.parametrize("seed", range(6))
def test_schedule_equals_diffusers_mag_cache(seed):
    torch = pytest.importorskip("torch")
    hooks = pytest.importorskip("diffusers.hooks.mag_cache")
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    class Block(torch.nn.Module):
        calls = 0

        def forward(self, hidden_states):
            Block.calls += 1
            return hidden_states + 1

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block(), Block()])

        def forward(self, hidden_states):
            return self.blocks[1](self.blocks[0](hidden_states))

    TransformerBlockRegistry.register(
        Block,
        TransformerBlockMetadata(
            return_hidden_states_index=0, hidden_states_argument_name="hidden_states"
        ),
    )
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(6, 30))
    curve = [1.0, *rng.normal(1, 0.05, 11)]
    threshold = rng.uniform(0, 0.3)
    retention = rng.uniform(0.05, 0.4)
    skips = int(rng.integers(1, 5))
    model = Model()
    hooks.apply_mag_cache(
        model,
        hooks.MagCacheConfig(
            threshold=threshold,
            max_skip_steps=skips,
            retention_ratio=retention,
            num_inference_steps=steps,
            mag_ratios=curve,
        ),
    )
    theirs = []
    for _ in range(steps):
        before = Block.calls
        assert (model(torch.zeros(1, 2, 3)) == 2).all()
        theirs.append(Block.calls > before)
    assert schedule_steps(interpolate_ratios(curve, steps), threshold, retention, skips) == tuple(
        theirs
    )
    assert not all(theirs)
