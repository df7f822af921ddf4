"""Fine-tune a language model on your own rewrites, then on your own preferences.

    python examples/sft_dpo_own_pairs.py --model=smollm2 --out=runs/own_pairs

SFT teaches it the form of own_pairs.jsonl, "Wide shot: ... light. The camera ...", and DPO to
leave the camera still. Datasets are lists of dicts or `datasets.Dataset` objects, with the columns
of TRL. The notebook sft_dpo_own_pairs.ipynb explains and measures the same.
"""

import argparse
import json
from pathlib import Path

import pav_jax as pav

FILE = Path(__file__).with_name("own_pairs.jsonl")
MOVES = ("The camera circles.", "The camera flies up.", "The camera zooms in.")


def make_preferences(pairs: list[dict[str, str]]) -> list[dict[str, str]]:
    """The shots of the pairs: rather with a still camera than with one that moves."""
    preferences = []
    for i, pair in enumerate(pairs):
        shot = pair["completion"].split(" The camera ")[0]
        answers = {"chosen": f"{shot} The camera is still.", "rejected": f"{shot} {MOVES[i % 3]}"}
        preferences.append({"prompt": pair["prompt"], **answers})
    return preferences


def main(model: str, out: str, steps: int = 32) -> None:
    pairs = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    lm = pav.LanguageModel.from_pretrained(model, dtype="float32")
    # few steps on all linear layers, with a high learning rate
    common = dict(gradient_accumulation_steps=1, max_length=128, lora=pav.DPOConfig().lora)
    sft_config = pav.SFTConfig(
        max_steps=steps, batch_size=4, learning_rate=1e-3, lr_scheduler_type="linear", **common
    )
    tuned = pav.train.sft(lm, pairs, sft_config, output_dir=f"{out}/sft")
    dpo_config = pav.DPOConfig(max_steps=8, batch_size=4, learning_rate=5e-4, **common)
    aligned = pav.train.dpo(tuned, make_preferences(pairs), dpo_config, output_dir=f"{out}/dpo")
    aligned.save_pretrained(f"{out}/booster")
    booster = pav.Booster.from_pretrained(f"{out}/booster", template="model")
    for refinement in booster.refine("a fox in the snow", num_return_sequences=2)[0]:
        print(refinement.refined)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", default="runs/own_pairs")
    args = parser.parse_args()
    main(args.model, args.out)
