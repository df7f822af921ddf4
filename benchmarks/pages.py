"""Writes the measured parts of pages in docs/ from the JSON files of results.

A part is what stands between `<!-- result: NAME -->` and `<!-- end: NAME -->`: a block of lines, or
cells of one table row. Only parts whose result has a file are written.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
_PART = re.compile(
    r"(<!-- result: (?P<name>\w+) -->)(?P<old>.*?)(<!-- end: (?P=name) -->)", re.DOTALL
)


def regenerate(text: str, results: Mapping[str, Result], source: str = "page") -> str:
    """Return a page with the parts of these results written anew.

    Raises:
      ValueError: a marker has no counterpart, or a part has no formatter.
    """
    names = [part["name"] for part in _PART.finditer(text)]
    markers = len(re.findall(r"<!-- (?:result|end): ", text))
    if markers != 2 * len(names):
        raise ValueError(f"{source}: a marker of a result has no counterpart")
    if unknown := sorted(set(names) - set(FORMATTERS)):
        raise ValueError(f"{source}: nothing writes the result {unknown[0]}")

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in results:
            return match[0]
        return f"{match[1]}{FORMATTERS[name](results[name])}{match[4]}"

    return _PART.sub(part, text)


def read_results(folder: Path) -> dict[str, Result]:
    """Name -> result of every JSON file in a folder."""
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"))
    }


def write_pages(docs: Path, results: Mapping[str, Result]) -> list[Path]:
    """Regenerate every page that has parts; returns those that changed."""
    changed = []
    for page in sorted(docs.rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        if "<!-- result: " not in old:
            continue
        new = regenerate(old, results, str(page))
        if new != old:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


# --------------------------------------------------------------------------------------- formatters


def origin(result: Result) -> str:
    """Where a result comes from: command, machine, date and commit."""
    return (
        f"`{result['command']}`, {result['cores']} cores, {result['cpu']}, {result['date']},"
        f" commit `{result['commit']}`"
    )


def row(what: str, measured: str, result: Result) -> str:
    """The cells of a row of the table of speeds."""
    cells = (what, measured, origin(result))
    return " " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " "


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table as a block of lines."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def evolve(result: Result) -> str:
    """The section "Against the published loop"."""
    ours, theirs, count = result["pav_jax"], result["published"], result["candidates"]
    rates = result["candidates_per_second"]
    rows = [
        ["candidates/s", _number(rates["pav_jax"]), _number(rates["published"]), _times(result)]
    ]
    for activity in ("propose", "generate", "score", "move", "bookkeeping"):
        mine, peers = (1e3 * side["parts"].get(activity, 0.0) / count for side in (ours, theirs))
        ratio = f"{peers / mine:.1f}" if mine else ""
        rows.append([f"{activity}, ms a candidate", f"{mine:.1f}", f"{peers:.1f}", ratio])
    apart = result["differences"]
    text = (
        f"\n{result['prompts']} prompts, {result['rounds']} rounds of {result['rewrites']}"
        f" rewrites, {count} candidates: {origin(result)}.\n"
        f"{table(['', 'pav_jax', 'published order', 'ratio'], rows)}\n"
        f"Without the time of moves {result['ratio_without_moves']:.2f} times."
    )
    if "first_seconds_cached" in ours:
        fastest = min(ours["seconds"])
        text += (
            f" The first run of pav_jax takes {ours['first_seconds']:.1f} s with an empty cache of"
            f" compiled programs, {ours['first_seconds_cached']:.1f} s with a filled one, and"
            f" {fastest:.1f} s after compilation."
        )
    if "largest_ratio" in result:
        text += (
            f" Generating takes {ours['flops_per_video'] / 1e9:.1f} GFLOP a candidate. At the"
            f" {result['product_flops_per_second'] / 1e9:.0f} GFLOP/s that a large float32 matrix"
            f" product reaches on these cores, no program could be more than"
            f" {result['largest_ratio']:.1f} times as fast as the published order."
        )
    scores = ", ".join(f"{name} {value:.0e}" for name, value in apart["scores"].items())
    return text + (
        f" Largest difference of a video: {apart['video_steps']} of 255"
        f" ({apart['share_of_values']:.3%} of values); of scores: {scores}.\n"
    )


def generate(what: str) -> Callable[[Result], str]:
    """A row about benchmarks/generate.py."""

    def cells(result: Result) -> str:
        parts = []
        for measured in result["rows"]:
            rates = (measured["flops"] / measured[side] / 1e9 for side in ("ours", "theirs"))
            parts.append(
                f"{measured['name']} {measured['ours']:.3g} and {measured['theirs']:.3g}"
                f" ({measured['theirs'] / measured['ours']:.1f} times;"
                f" {' and '.join(f'{rate:.0f}' for rate in rates)} GFLOP/s)"
            )
        compiling = [sum(p["compile"] for p in run.values()) for run in result["compiled"]]
        text = f"{'; '.join(parts)}. Compiling {compiling[0]:.2g} s, from the cache"
        text += f" {compiling[1]:.2g} s"
        if best := result.get("peak_flops_per_second"):
            text += f". A large matrix product: {best / 1e9:.0f} GFLOP/s"
        largest = max(measured["difference"] for measured in result["rows"])
        return row(
            f"{what}, float32, batch {result['batch_size']}: seconds, ours and diffusers' (largest"
            f" difference {largest:.0e})",
            text,
            result,
        )

    return cells


def sample_continue(result: Result) -> str:
    """The row about continuing one prompt."""
    batches = dict.fromkeys(measured["batch"] for measured in result["rows"])
    parts = []
    for batch in batches:
        rate = {r["system"]: r for r in result["rows"] if r["batch"] == batch}
        ours, theirs, bound = (rate[n] for n in ("pav_jax", "transformers", "matmuls only"))
        parts.append(
            f"batch {batch}: {_number(ours['tokens_s'])} and {_number(theirs['tokens_s'])}"
            f" ({ours['tokens_s'] / theirs['tokens_s']:.1f} times; matrix products alone"
            f" {_number(bound['tokens_s'])})"
        )
    what = f"new tokens/s of SmolLM2-135M, {result['dtype']}, ours and transformers'"
    return row(what, "; ".join(parts), result)


def sample_rewrite(result: Result) -> str:
    """The row about rewriting many prompts."""
    others = {n: s for n, s in result["systems"].items() if n != "pav_jax"}
    ours = result["systems"]["pav_jax"]
    best = max(others.values(), key=lambda system: system["tokens_s"])
    every = ", ".join(
        f"{name.rpartition(' ')[2]}: {_number(s['tokens_s'])}" for name, s in others.items()
    )
    return row(
        f"rewriting with {result['file'].removesuffix('.gguf')}, float32, {result['prompts']}"
        f" prompts with the shipped instruction, {result['samples']} samples of each, up to"
        f" {result['max_new_tokens']} tokens: new tokens/s, ours and transformers' best",
        f"{_number(ours['tokens_s'])} and {_number(best['tokens_s'])}"
        f" ({ours['tokens_s'] / best['tokens_s']:.2f} times; {ours['flop_s'] / 1e9:.0f} and"
        f" {best['flop_s'] / 1e9:.0f} GFLOP/s, counted as if nothing were shared); transformers by"
        f" rows of a batch: {every}",
        result,
    )


def train(result: Result) -> str:
    """The row about LoRA training."""
    parts = []
    for stage, dtype in dict.fromkeys((r["stage"], r["dtype"]) for r in result["rows"]):
        ours, theirs = (
            next(
                r
                for r in result["rows"]
                if (r["stage"], r["dtype"], r["side"]) == (stage, dtype, side)
            )
            for side in ("pav_jax", "trl")
        )
        parts.append(
            f"{stage.upper()}, {dtype}: {ours['tokens_s']:.0f} and {theirs['tokens_s']:.0f}"
            f" ({ours['tokens_s'] / theirs['tokens_s']:.2f} times), {ours['flop_s'] / 1e9:.0f} and"
            f" {theirs['flop_s'] / 1e9:.0f} GFLOP/s, {ours['peak_gb']:.1f} and"
            f" {theirs['peak_gb']:.1f} GB, last loss {ours['losses'][-1]:.4f} and"
            f" {theirs['losses'][-1]:.4f}"
        )
    what = "LoRA training of SmolLM2-135M, tokens/s of ours and TRL's with PEFT"
    return row(what, "; ".join(parts), result)


def score(result: Result) -> str:
    """The row about scoring."""
    parts = []
    for measured in result["rows"]:
        rates = [measured["videos"] / measured[side] for side in ("ours", "theirs")]
        flops = " and ".join(f"{rate * measured['flops'] / 1e9:.0f}" for rate in rates)
        parts.append(
            f"{measured['name']} {rates[0]:.3g} and {rates[1]:.3g} ({rates[0] / rates[1]:.1f}"
            f" times; {flops} GFLOP/s; difference {measured['difference']:.0e})"
        )
    if best := result.get("peak_flops_per_second"):
        parts.append(f"a large matrix product: {best / 1e9:.0f} GFLOP/s")
    what = "videos/s scored, float32, ours and torch's (transformers' CLIP, Idefics2, Qwen2-VL)"
    return row(what, "; ".join(parts), result)


def mini_seeds(result: Result) -> str:
    """The tables of the recipe on the embedded world, one for each prompt set."""
    runs = result["runs"]
    text = f"\n{origin(result)}.\n"
    for name, rows in result["sets"].items():
        cells = [
            [label, *(f"{mean:+.2f} ({low:+.2f}, {high:+.2f})" for mean, low, high in intervals)]
            for label, intervals in rows.items()
        ]
        text += table([f"{name}, {result['prompts'][name]} prompts", *runs], cells)
    failures = result["failures"]
    verdict = "; ".join(failures) if failures else "every claim holds in every run"
    return f"{text}\nChecked: {verdict}.\n"


def mini_guard(result: Result) -> str:
    """The tables of the guard on the embedded world, one for each prompt set."""
    text = f"\n{origin(result)}.\n"
    for name, systems in result["sets"].items():
        cells = []
        for system, sides in systems.items():
            for mode, side in zip(("off", "on"), sides, strict=True):
                mean, low, high = side["gain"]
                units = [
                    f"{side['units'][kind]:.3g}" for kind in ("missing", "contradicted", "added")
                ]
                cells.append(
                    [system, mode, f"{mean:+.2f} ({low:+.2f}, {high:+.2f})", f"{side['FAITH']:.3f}"]
                    + [*units, f"{side['words']:.0f}", f"{side['reverted']}"]
                )
        header = ["guard", "overall - original", "FAITH", "missing", "contradicted", "added"]
        prompts = next(iter(systems.values()))[0]["prompts"]
        text += table([f"{name}, {prompts} prompts", *header, "words", "reverted"], cells)
    return f"{text}\n"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times(result: Result) -> str:
    return f"{result['ratio']:.2f}"


FORMATTERS: dict[str, Callable[[Result], str]] = {
    "evolve": evolve,
    "generate_mini": generate("videos of the mini generator"),
    "generate_cogvideox": generate(
        "a CogVideoX of width 512, 8 layers, 13 x 32 x 32 latents, VAE of an eighth of the"
        " published width, random weights"
    ),
    "generate_wan": generate(
        "a Wan of width 512, 8 layers, 13 x 32 x 32 latents, VAE of a sixth of the published"
        " width, random weights"
    ),
    "generate_wan22": generate(
        "a Wan 2.2 TI2V of width 512, 8 layers, 13 x 16 x 16 latents, VAE of an eighth of the"
        " published width, random weights"
    ),
    "sample_continue": sample_continue,
    "sample_rewrite": sample_rewrite,
    "train": train,
    "score": score,
    "mini": mini_seeds,
    "mini_guard": mini_guard,
    "mini_seeds": mini_seeds,
}
