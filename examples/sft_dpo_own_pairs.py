"""Fine-tune a language model on your own rewrites, then on your own preferences.

    python examples/sft_dpo_own_pairs.py --model=mini:rewriter --out=runs/own_pairs

Datasets are lists of dicts (as here), `datasets.Dataset` objects or JSON Lines files.
"""

import argparse

import pav_jax as pav

PAIRS = [
    {"prompt": "a red star bounces", "refined": "a crimson star bouncing in bright, vivid light"},
    {"prompt": "a blue ball spins", "refined": "an azure ball spinning slowly, sharp focus"},
    {"prompt": "a green box grows", "refined": "an emerald box growing under a clear sky"},
    {"prompt": "a pink heart blinks", "refined": "a rose heart blinking, the camera stays still"},
]
PREFERENCES = [
    {"prompt": pair["prompt"], "chosen": pair["refined"], "rejected": pair["prompt"]}
    for pair in PAIRS
]


def main(model: str, out: str, steps: int = 20) -> None:
    lm = pav.LanguageModel.from_pretrained(model, dtype="float32")
    common = dict(max_steps=steps, batch_size=4, gradient_accumulation_steps=1, max_length=128)
    sft_config = pav.train.SFTConfig(learning_rate=2e-3, **common)
    tuned = pav.train.sft(lm, PAIRS, sft_config, output_dir=f"{out}/sft")
    dpo_config = pav.train.DPOConfig(learning_rate=5e-4, **common)
    aligned = pav.train.dpo(tuned, PREFERENCES, dpo_config, output_dir=f"{out}/dpo")
    aligned.save_pretrained(f"{out}/booster")
    booster = pav.Booster.from_pretrained(f"{out}/booster")
    for refinement in booster.refine("a red star bounces", num_return_sequences=2)[0]:
        print(refinement.refined)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini:rewriter")
    parser.add_argument("--out", default="runs/own_pairs")
    args = parser.parse_args()
    main(args.model, args.out)
