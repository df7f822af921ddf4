"""Writes the metrics of a training run from the device to `metrics.jsonl` and TensorBoard."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jax

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, is_remote
from pav_jax.storage.files import write_atomic
from pav_jax.train.step_report import StepReport

UPLOAD_INTERVAL_S = 30.0


class MetricsLog:
    """Writes one line per step to `metrics.jsonl` and reports to the progress display.

    The same numbers go to `report.scalars`, a TensorBoard file.

    Each line has the step's own metrics and, averaged over the steps that were flushed together,
    the tokens per second and the model FLOPs utilization: mfu = FLOPs by formula / (seconds * chips
    * a chip's published peak in bfloat16), null if the peak is unknown.

    After a restart both files continue after the restored step, without duplicates; what the
    TensorBoard file lacks is taken from `metrics.jsonl`.

    Args:
      path: of the file.
      steps_done: steps that earlier runs completed.
      num_chips: devices of the mesh.
      peak_flops: FLOP/s of a chip; None if unknown.
    """

    def __init__(
        self,
        path: AnyPath,
        steps_done: int,
        report: StepReport,
        num_chips: int,
        peak_flops: float | None,
    ):
        self._path = path
        self._steps_done = steps_done
        self._report = report
        self._num_chips = num_chips
        self._peak_flops = peak_flops
        self._is_first = True
        self._lines = [line for line in self._read_lines() if line["step"] <= steps_done]
        self._rewrite()
        report.scalars.keep_until(steps_done)
        self._add_scalars(self._lines)
        self._reset()

    def _reset(self) -> None:
        self._pending: list[Mapping[str, Any]] = []
        self._tokens = 0
        self._flops = 0.0
        self._start_time = time.perf_counter()

    def add(self, metrics: Mapping[str, Any], num_tokens: int, flops: float) -> None:
        """Add a step's metrics without waiting for the device.

        It waits only after the first step, whose time is mostly compilation and is not counted.
        """
        self._pending.append(metrics)
        self._tokens += num_tokens
        self._flops += flops
        if self._is_first:
            jax.block_until_ready(metrics)
            self._tokens = 0
            self._flops = 0.0
            self._start_time = time.perf_counter()
        self._is_first = False

    def flush(self, checkpoint: bool = True) -> None:
        """Wait for the device and write the metrics of all steps since the last flush.

        Args:
          checkpoint: a checkpoint follows, after which these steps are not run again. Otherwise the
            file, which is written whole, is uploaded to an object store at most once in
            UPLOAD_INTERVAL_S.

        Raises:
          BadInput: the loss is not a finite number, or the file cannot be written.
        """
        rows = jax.device_get(self._pending)
        speed = self._speed(time.perf_counter() - self._start_time)
        lines: list[dict[str, Any]] = [
            {"step": self._steps_done + i} | {name: float(v) for name, v in row.items()} | speed
            for i, row in enumerate(rows, 1)
        ]
        self._steps_done += len(lines)
        for line in lines:
            if not math.isfinite(line["loss"]):
                raise BadInput(
                    f"{self._path}: the loss is {line['loss']} at step {line['step']}; lower"
                    " learning_rate, set max_grad_norm, or check the checkpoint that training"
                    " starts from",
                    source=self._path,
                    field="loss",
                )
        self._append(lines, checkpoint)
        self._add_scalars(lines)
        if lines:
            self._report(self._steps_done, _summary(lines[-1]))
        self._reset()

    def close(self) -> None:
        """Write what the TensorBoard file lacks."""
        self._report.scalars.close()

    def _add_scalars(self, lines: list[dict[str, Any]]) -> None:
        scalars = self._report.scalars
        for line in lines:
            scalars.add(line["step"], {name: v for name, v in line.items() if name != "step"})
        scalars.flush()

    def _speed(self, seconds: float) -> dict[str, float | None]:
        speed: dict[str, float | None] = {
            "tokens_per_second": None,
            "tokens_per_second_per_chip": None,
            "mfu": None,
        }
        if self._tokens:
            tokens_per_second = self._tokens / seconds
            speed["tokens_per_second"] = tokens_per_second
            speed["tokens_per_second_per_chip"] = tokens_per_second / self._num_chips
            if self._peak_flops:
                speed["mfu"] = self._flops / (seconds * self._num_chips * self._peak_flops)
        return speed

    def _read_lines(self) -> list[dict]:
        """The lines of earlier runs; those that cannot be read, such as a cut one, are skipped."""
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise BadInput(
                f"{self._path}: could not be read ({error.strerror or error}); make it readable or"
                " move it away and run the same command again",
                source=self._path,
            ) from error
        lines = []
        for text in content.decode("utf-8", "replace").split("\n"):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines

    def _rewrite(self) -> None:
        if jax.process_index() == 0:
            write_atomic(self._path, _encode(self._lines))
        self._uploaded_at = time.monotonic()

    def _append(self, lines: list[dict], checkpoint: bool) -> None:
        if jax.process_index():
            return
        if is_remote(self._path):
            self._lines += lines
            if checkpoint or time.monotonic() - self._uploaded_at > UPLOAD_INTERVAL_S:
                self._rewrite()
            return
        try:
            with self._path.open("ab") as file:
                file.write(_encode(lines))
        except OSError as error:
            raise BadInput(
                f"{self._path}: could not be written ({error.strerror}); free disk space and run"
                " the same command again",
                source=self._path,
            ) from error


def _encode(lines: list[dict]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _summary(line: Mapping[str, Any]) -> str:
    reward = f"reward {line['reward']:.3f}, " if "reward" in line else ""
    speed = line["tokens_per_second"]
    pace = f", {speed:,.0f} tokens/s" if speed else ""
    utilization = f", MFU {line['mfu']:.1%}" if line["mfu"] else ""
    return f"{reward}loss {line['loss']:.4f}{pace}{utilization}"
