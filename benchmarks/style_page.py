"""The page about the adapters that `styles.py` trains; docs/guides/adapters.md has its tables."""

import datetime
import json
import os
from pathlib import Path

from machine import cpu_model
from pav_jax.storage.json_files import read_json

COLUMNS = {  # of the table: the heading, and the number of styles.json
    "loss per token": "loss",
    "FAITH": "FAITH",
    "words": "words",
    "loops": "loops",
    "FAITH, guarded": "guarded: FAITH",
    "of those rewritten": "guarded: FAITH of rewrites",
    "unchanged": "guarded: unchanged",
    "words, guarded": "guarded: words",
    "loops, guarded": "guarded: loops",
}
SHARES = {"loops", "guarded: unchanged", "guarded: loops"}
HEAD = """\
# The default boosters

`pav refine PROMPT --for=NAME` rewrites with one of these LoRA adapters on SmolLM2-135M-Instruct.
Each learned by SFT how the rewriter that was published with a video model writes, from its
rewrites of 761 prompts of VBench, and some then by GRPO on texts: FAITH,
likelihood under the style, and length. The other 82 prompts, which a hash chooses, are held out,
and everything on this page is measured on them; of the systems of an adapter the last one is
shipped. Written by

    python benchmarks/styles.py --data=vbench_prompts.jsonl --page=styles.md

on {date}, on {machine}.

"Guarded" is with the guard, and with the sampling and the 8-bit products of
`pav refine`: a prompt that comes back unchanged has FAITH 1; the next columns leave these out, and
give their share. "Loops" is the share of rewrites that say the same four words three times. No
video has been made to compare these rewrites;
how much they help a video model is not measured.
"""


def render(workdir: Path, styles: list[str]) -> str:
    """Return the page, in Markdown.

    Args:
      workdir: of styles.py.
      styles: those to show; each has styles.json and rewrites.jsonl.
    """
    machine = f"{os.cpu_count()} cores of {cpu_model()}"
    head = HEAD.format(date=datetime.date.today(), machine=machine)
    lines = [head, _row(["adapter", *COLUMNS])]
    lines.append(_row(["---"] * (1 + len(COLUMNS))))
    for style in styles:
        for system, numbers in read_json(workdir / style / "styles.json").items():
            cells = [_cell(numbers, name) for name in COLUMNS.values()]
            name = "no adapter" if system == "base" else f"`{style}`, {system}"
            lines.append(_row([name, *cells]))
    for style in styles:
        lines += ["", f"## Twenty rewrites for {style}", ""]
        lines += ["Chosen by a hash of the prompt, guarded, seed 0.", ""]
        for line in (workdir / style / "rewrites.jsonl").read_text(encoding="utf-8").splitlines():
            rewrite = json.loads(line)
            reason = rewrite["reason"]
            text = f"unchanged: {reason}" if reason else " ".join(rewrite["refined"].split())
            lines += [f"- **{rewrite['prompt']}**", f"  {text}"]
    return "\n".join(lines) + "\n"


def _cell(numbers: dict[str, float], name: str) -> str:
    value = numbers[name]
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:.0f}" if name.endswith("words") else f"{value:.3f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
