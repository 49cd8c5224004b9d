"""The one training loop, for every method and task: schedule, clipping, EMA, logging, checkpoints, resume.

Everything random in step k is a function of (seed, k), so a run that was killed ends with the same bits.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dblocks import processes, seeds
from dblocks.checkpoint import checkpoints, load_newest, load_weights, save_checkpoint
from dblocks.errors import Interrupted, TrainingFailed, UserError
from dblocks.graphs import StepGraphs
from dblocks.losses import REMEDY, LossBuffer
from dblocks.machine import autocast, wants_graphs
from dblocks.methods.method import Drawn, Method, Step
from dblocks.moving_average import MovingAverage
from dblocks.progress import QuietLog, progress_bar
from dblocks.resuming import check_content, check_origin, origin_of
from dblocks.runlog import RunLog
from dblocks.spec import RunSpec, TrainingSpec
from dblocks.stopping import Stop, flag_on_signals


def learning_rate_factor(training: TrainingSpec, step: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`: linear warm-up, then cosine to the minimum, or constant.

    Warm-up takes its share of the epochs, so a cut run keeps the schedule's shape.
    """
    warmup = total * min(1.0, training.warmup_epochs / training.epochs)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if training.schedule == "constant":
        return 1.0
    floor = training.min_learning_rate / training.learning_rate
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


class Trainer:
    """Trains `method` for `total` steps inside `folder`, from the newest intact checkpoint there.

    Args:
        block: train this block alone; step u here is step u·B + block of the run whose blocks take turns, so that
            every block's numbers are those of its own (seed, block, update), and its rate follows its own updates.
    Attributes after `run`: `seconds`, wall time of training summed over all attempts.
    """

    def __init__(
        self, spec: RunSpec, method: Method, total: int, folder: Path, device: torch.device, block: int | None = None
    ):
        self.spec, self.method, self.total, self.folder, self.device = spec, method, total, folder, device
        self.block = block
        self.network, training = method.network, spec.training
        self.graphs = StepGraphs(self._update, device) if wants_graphs(spec.compute, device) else None
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[training.optimizer]
        self.optimizer = kind(
            [{"lr": training.learning_rate, **group} for group in method.parameter_groups()],
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
            capturable=self.graphs is not None,
        )
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._updated: dict[Hashable, dict[str, Tensor]] = {}
        half_life = training.ema_half_life
        self.ema = half_life and MovingAverage(self.network, training.batch_size, half_life, training.ema_ramp)
        self.buffer, self.seconds = LossBuffer(), 0.0

    def run(self, progress: bool = False, on_log: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the end, handing each log line to `on_log` as well.

        Raises: Interrupted if it was asked to stop, with the state saved; TrainingFailed if a loss is not finite;
            UserError if the GPU's memory is too small, or what it would go on from is not this run's.
        """
        start = self._restore()
        self._since = saved = time.monotonic()
        logging = self.spec.logging
        with (
            contextlib.closing(self._open_log(start, on_log)) as log,
            contextlib.closing(progress_bar(start, self.total, progress)) as bar,
            flag_on_signals() as stop,
            self._memory_full_in_one_line(),
        ):
            for step in range(start, self.total):
                self.train_step(step)
                done = step + 1
                bar.update()
                if done % logging.log_every == 0 or done == self.total:
                    self._log(log, done, bar)
                due = time.monotonic() - saved > logging.checkpoint_minutes * 60
                stopping = self._stopping(stop, done)
                if stopping or due or done % (logging.checkpoint_steps or done + 1) == 0:
                    self._log(log, done, bar)
                    self._save(done)
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(f"stopped at step {done} of {self.total}; state saved", True, stop.by)
        self._tick()
        if not all(weight.isfinite().all() for weight in self.final_weights().values()):
            raise TrainingFailed(f"weights are not finite after the last step, {self.total}; {REMEDY}")

    @contextlib.contextmanager
    def _memory_full_in_one_line(self) -> Iterator[None]:
        """Turns what PyTorch says of a full GPU into one line with what to do."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.folder}: the GPU has no memory for {self.spec.samples_at_once} samples at once; set "
                "compute.micro_batch to less, compute.checkpoint_activations, or compute.gpus to more"
            ) from error

    def _open_log(self, start: int, on_log: Callable[[dict[str, Any]], None] | None) -> Any:
        """The log, which the first process writes."""
        return RunLog(self.folder / "log.jsonl", start, on_log) if processes.is_first() else QuietLog()

    def _stopping(self, stop: Stop, done: int) -> bool:
        """Whether to stop after `done` steps; processes that train together stop after the same one."""
        if processes.is_together() and done % self.spec.logging.log_every:
            return False
        return processes.same_for_all(stop.asked.is_set())

    def train_step(self, step: int) -> None:
        """One step: loss, gradients, clipping, update; nothing is logged or saved. On CUDA the host does not wait."""
        self._set_rates(learning_rate_factor(self.spec.training, step, self.total))
        if self.block is not None:
            step = step * self.spec.num_blocks + self.block
        own = (processes.rank(),) if processes.rank() else ()  # else all shares of a batch would drop alike
        drawn = self.method.draw(step)
        torch.manual_seed(seeds.derive(self.spec.seed, "dropout", step, *own))
        loss = self.graphs(drawn) if self.graphs else self._update(drawn)
        if self.ema:
            self.ema.update(self._updated[drawn.part])
        self.buffer.add(step, Step(loss, drawn.block, drawn.sigma))

    def _update(self, drawn: Drawn) -> Tensor:
        """From what was drawn to updated weights; returns the loss, which is the mean over micro-batches."""
        self.network.train()
        losses: list[Tensor] = []
        for part in drawn.parts(self.spec.micro_batches):
            with autocast(self.spec.compute, self.device):
                loss = self.method.loss(part)
            if not losses:
                # None, not zero: weights outside the active block must not move, nor their moments (paper, Section 3)
                self.optimizer.zero_grad(set_to_none=True)
            loss.backward(torch.full_like(loss, 1 / self.spec.micro_batches))
            losses.append(loss.detach())
        loss = processes.average(self.network.parameters(), torch.stack(losses).mean())
        if drawn.part is None or drawn.part not in self._updated:
            self._updated[drawn.part] = {n: p for n, p in self.network.named_parameters() if p.grad is not None}
        if self.spec.training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.training.grad_clip)
        self.optimizer.step()
        return loss.detach()

    def _set_rates(self, factor: float) -> None:
        """Every group's learning rate: its own times `factor`; a graph reads it from the GPU's memory."""
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            if self.graphs is None:
                group["lr"] = rate * factor
            elif torch.is_tensor(group["lr"]):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = torch.tensor(rate * factor, device=self.device)

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def _log(self, log: RunLog, done: int, bar: Any) -> None:
        try:
            losses = self.buffer.drain()
        except TrainingFailed as error:
            kept = checkpoints(self.folder)
            last = f"last good checkpoint {kept[0].name}" if kept else "no checkpoint yet"
            raise TrainingFailed(f"{error}; {last}") from None
        if losses:
            self._tick()
            rate = float(self.optimizer.param_groups[0]["lr"])
            log.write(step=done, loss=losses, learning_rate=rate, seconds=round(self.seconds, 3))
            bar.set_postfix({f"loss {block}": f"{loss:.3f}" for block, loss in losses.items()}, refresh=False)

    def _save(self, done: int) -> None:
        self._tick()
        if not processes.is_first():
            return
        state = {
            "run": origin_of(self.spec, self.block),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.shadow if self.ema else {},
            "ema_updates": self.ema.updates if self.ema else {},
            "seconds": self.seconds,
        }
        save_checkpoint(self.folder, done, state)

    def _restore(self) -> int:
        """Put the newest intact checkpoint's state in place; returns its step, 0 without one."""
        with processes.first_goes_first():  # it puts broken ones aside
            found = load_newest(self.folder, self._check)
        if found is None:
            return 0
        path, state = found
        try:
            load_weights(self.network, state, path)
        except ValueError as error:
            raise UserError(f"{error}; remove the step-*.pt there, they are of another run") from error
        # the groups stay this run's own: rates are set at each step, and what is for the device is for this one
        own = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        if self.ema:
            self.ema.shadow = {name: tensor.to(self.device) for name, tensor in state["ema"].items()}
            self.ema.updates = state["ema_updates"]
        self.seconds = state["seconds"]
        return state["step"]

    def _check(self, state: dict[str, Any], path: Path) -> None:
        check_origin(state, path, origin_of(self.spec, self.block), self.total)
        check_content(state, path, self.optimizer, self.ema or None)

    def let_go(self) -> None:
        """Free what only training needs: recorded graphs hold the memory of a step, and this trainer with it."""
        self.network.zero_grad(set_to_none=True)
        self.graphs, self.optimizer, self._updated = None, None, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def final_weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated: the moving average where there is one."""
        return {**self.network.state_dict(), **(self.ema.shadow if self.ema else {})}
