"""The guard on replies that a test writes."""

from pav_jax.booster.guard import Guard, Request


def refine(prompt, *replies, n=1, likelihood=None, **fields):
    """The rewrites of a prompt whose samples are `replies` in turn."""
    guard = Guard().with_fields({"samples": max(1, len(replies))} | fields)

    def engine(requests, num_samples):
        return [[replies[i % len(replies)] for i in range(num_samples)] for _ in requests]

    return guard.refine([Request(prompt, 7)], engine, n, "m", likelihood)[0]


def first(prompt, *replies, **fields):
    return refine(prompt, *replies, **fields)[0]
