"""Use your own proposer of rewrites during evolution.

    python examples/own_proposer.py --workdir=runs/own_proposer

Subclass `pav.Proposer`: `propose` receives one request per prompt, with the best rewrites so far
and their scores, and returns up to `request.num_rewrites` new rewrites for each. In a configuration
file the same proposer is
`proposers.mine = {"kind": "examples.own_proposer:Adjectives", "share": 1.0}`.
"""

import argparse
from collections.abc import Sequence

import numpy as np

import pav_jax as pav

ADDITIONS = ("bright light", "vivid contrast", "sharp focus", "a still camera", "soft shadows")


class Adjectives(pav.Proposer):
    """Adds a phrase to the best rewrite so far."""

    name = "adjectives"

    def propose(self, requests: Sequence[pav.ProposalRequest]) -> list[list[str]]:
        """Return up to `num_rewrites` new rewrites for each request."""
        return [self._rewrites(request) for request in requests]

    def _rewrites(self, request: pav.ProposalRequest) -> list[str]:
        best = request.history[1] if len(request.history) > 1 else request.history[0]
        text, _scores = best
        order = np.random.default_rng(request.seed).permutation(len(ADDITIONS))
        rewrites = [f"{text}, {ADDITIONS[i]}" for i in order if ADDITIONS[i] not in text]
        new = [rewrite for rewrite in rewrites if rewrite not in request.tried]
        return new[: request.num_rewrites]


def main(workdir: str, config_name: str = "smoke") -> None:
    recipe = pav.Recipe(pav.load_config(config_name), proposers=[Adjectives()])
    print(f"pool: {recipe.evolve(workdir)}")
    print(f"pairs: {recipe.select(workdir)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/own_proposer")
    main(parser.parse_args().workdir)
