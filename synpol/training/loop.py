"""The training loop: optimiser, schedule, averaged weights, checkpoints and logs.

Everything random is drawn from (seed, batch index), so a run that was interrupted and resumed
goes on with the very batches it would have seen.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from synpol.config import Config
from synpol.errors import InputError
from synpol.model import build_loss, build_model
from synpol.model.device import autocast, choose_device, choose_dtype
from synpol.model.losses import side_right
from synpol.model.trained import latest_checkpoint, load_checkpoint
from synpol.polarity import Channels
from synpol.training.checkpoint import checkpoint_path, save_checkpoint, training_identity
from synpol.training.log import TrainingLog
from synpol.training.optimizer import build_optimizer, learning_rate_factor
from synpol.training.processes import Processes
from synpol.training.validation import Validation, validates_at

#: a larger share of the time that is waited for batches is worth a word
WAITING_TOLD = 0.05


class Trainer:
    """A training run: what is learned so far and how to go on.

    Parameters
    ----------
    config : Config
        Checked; `Trainer` resumes from the newest checkpoint in its `run_dir`.
    data_state : list of dict
        What tells the state of the training data, so that a run does not resume on other data.
    processes : Processes, optional
        Those that train together; by default this one is alone.

    Raises
    ------
    InputError
        The run in `run_dir` was started with other settings, or the validation volume cannot be
        used.
    """

    def __init__(
        self,
        config: Config,
        data_state: Sequence[dict[str, Any]] = (),
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.data_state = list(data_state)
        self.processes = processes or Processes(choose_device(config.device))
        self.device = self.processes.device
        self.dtype = choose_dtype(config.train.precision, self.device)
        self.channels = Channels.of(config.exclusive)
        torch.manual_seed(config.seed)
        self.model = build_model(config.model).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last_3d)
        if self.processes.size > 1:  # batch norm, where there is any, is of the whole batch
            self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.loss = build_loss(config.loss, self.channels).to(self.device)
        self.optimizer = build_optimizer(self.model, config.train)
        #: keeps small gradients of float16 above zero; does nothing for the other types
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, learning_rate_factor(config.train)
        )
        self.average: AveragedModel | None = None
        if config.train.ema:
            average = get_ema_multi_avg_fn(config.train.ema)
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.iteration = 0
        self._saved: int | None = None  # the iteration of the last checkpoint
        newest = latest_checkpoint(config.run_dir)
        if newest is not None:
            self._resume(load_checkpoint(newest), newest)
        if self.processes.sums([self.iteration]) != [self.iteration * self.processes.size]:
            raise InputError(
                f"process {self.processes.rank} finds iteration {self.iteration} in "
                f"{config.run_dir}, others another: run_dir has to be one folder that all share"
            )
        self.network = self.processes.together(self.model)
        self.validation: Validation | None = None
        if config.train.validate_every and self.processes.is_first:
            self.validation = Validation(config, self.iteration, self.device)
        #: whether validation has ended the run early
        self.stopped = self._stops()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stopped or self.iteration >= self.config.train.iterations

    def _stops(self) -> bool:
        return self.processes.any(self.validation is not None and self.validation.stops)

    def _resume(self, state: dict[str, Any], path: Path) -> None:
        if state.get("data_state", []) != self.data_state:
            raise InputError(
                f"{path} was trained on other data: what data.train names has been made anew or "
                "changed since. Give another run_dir, or remove that folder to start anew"
            )
        mine, theirs = training_identity(self.config), state["config"]
        for section in mine:
            ours, found = mine[section], theirs.get(section)
            if ours == found:
                continue
            if isinstance(ours, dict) and isinstance(found, dict):
                key = next(k for k in ours | found if ours.get(k) != found.get(k))
                section, ours, found = f"{section}.{key}", ours.get(key), found.get(key)
            raise InputError(
                f"{path} was trained with {section} = {found}, the config now has {ours}; give "
                "another run_dir, or remove that folder to start anew"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        if self.average is not None:
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["averaged"])
        self.iteration = self._saved = state["iteration"]

    def save(self) -> None:
        """Write a checkpoint of this iteration, where there is none; one process does."""
        if not self.processes.is_first or self._saved == self.iteration:
            return
        self._saved = self.iteration
        averaged = self.average.module.state_dict() if self.average is not None else None
        save_checkpoint(
            checkpoint_path(self.config.run_dir, self.iteration),
            {
                "iteration": self.iteration,
                "config": training_identity(self.config),
                "data_state": self.data_state,
                "model": self.model.state_dict(),
                "ema": averaged,
                "averaged": int(self.average.n_averaged) if self.average is not None else 0,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def step(self, batch: dict[str, np.ndarray]) -> tuple[dict[str, float], torch.Tensor]:
        """One iteration on a batch (raw, target, weights); returns measures and logits."""
        raw, target, weights = (
            torch.from_numpy(np.ascontiguousarray(batch[k])).to(self.device)
            for k in ("raw", "target", "weights")
        )
        self.model.train()
        with autocast(self.device, self.dtype):
            logits = self.network(raw.contiguous(memory_format=torch.channels_last_3d))
        total, terms = self.loss(logits, target, weights)
        if not torch.isfinite(total):
            raise RuntimeError(
                f"the loss is {total.item()} at iteration {self.iteration}; the checkpoint before "
                "it is kept. Lower train.lr, or use train.precision=float32"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.train.gradient_clipping
        )
        if not torch.isfinite(norm) and not self.scaler.is_enabled():  # which skips such a step
            raise RuntimeError(
                f"the gradient is {norm.item()} at iteration {self.iteration}; the checkpoint "
                "before it is kept. Lower train.lr, or use train.precision=float32"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        lr = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.iteration += 1
        if self.average is not None:
            if self.iteration <= self.config.train.ema_warmup:
                self.average.n_averaged.zero_()
            self.average.update_parameters(self.model)
        shown: torch.Tensor = logits.detach()
        return self._measures({"loss": total, **terms}, shown, target) | {"lr": lr}, shown

    def _measures(
        self, terms: dict[str, torch.Tensor], logits: torch.Tensor, target: torch.Tensor
    ) -> dict[str, float]:
        """Loss terms as means over the processes, and the fraction of voxels of the right side."""
        sides = side_right(logits, target, self.channels)
        own = [*(term.item() for term in terms.values()), *sides]
        *means, right, known = self.processes.sums(own)
        measures = {k: v / self.processes.size for k, v in zip(terms, means, strict=True)}
        return measures | {"side_right": right / known if known else math.nan}

    def _log(self) -> contextlib.AbstractContextManager[TrainingLog | None]:
        if not self.processes.is_first:
            return contextlib.nullcontext()
        return TrainingLog(Path(self.config.run_dir), self.config.loss.weights, self.iteration)

    def validate(self, log: TrainingLog | None = None) -> None:
        """Validate where it is due and has not been done; the other processes wait."""
        if self.validation is not None and self.validation.due(self.iteration):
            row, best = self.validation.run(self.iteration)
            if log is not None:
                log.validated(row)
            said = f"iteration {row.iteration}: validation F1 {row.f1:.3f}"
            if row is best:
                said += ", the best so far"
            elif best is not None:
                said += f" (best: {best.f1:.3f} at {best.iteration})"
            tqdm.write(said, file=sys.stderr)
        self.processes.wait()
        self.stopped = self._stops()

    def run(
        self,
        next_batch: Callable[[], dict[str, np.ndarray]],
        waited: Callable[[], float] = lambda: 0.0,
    ) -> bool:
        """Train to the end, or to Ctrl-C; both leave a checkpoint.

        Parameters
        ----------
        next_batch : callable
            Returns raw, target, weights and draws of the next batch.
        waited : callable
            Seconds spent waiting for batches so far.

        Returns
        -------
        bool
            Whether all iterations are done.
        """
        train = self.config.train
        batch = next_batch()  # before anything is kept: data that cannot be used shows here
        if self.iteration == 0:
            self.save()
        interrupted, begun = False, self.iteration
        started, before = time.perf_counter(), waited()
        with _Interrupt() as interrupt, self._log() as log:
            bar = tqdm(
                total=train.iterations,
                initial=self.iteration,
                unit="it",
                desc="train",
                smoothing=0.1,
                mininterval=0.5 if sys.stderr.isatty() else 15,
                disable=not self.processes.is_first,
            )
            draws, patches = 0, 0
            while not self.finished and not interrupted:
                measures, logits = self.step(batch)
                drawn = int(batch["draws"].sum())
                draws, patches = draws + drawn, patches + batch["draws"].size
                measures["acceptance"] = batch["draws"].size / drawn
                measures |= {"waited": waited() - before, "seconds": time.perf_counter() - started}
                if log is not None:
                    log.write(self.iteration, measures)
                    if self.iteration % train.image_every == 0:
                        log.images(self.iteration, batch, logits, self.channels)
                bar.update()
                bar.set_postfix(
                    loss=f"{measures['loss']:.3f}",
                    side=f"{measures['side_right']:.2f}",
                    accepted=f"{patches / draws:.2f}",
                    refresh=False,
                )
                validates = validates_at(train, self.iteration)
                if self.iteration % train.checkpoint_every == 0 or validates:
                    self.save()
                if validates:
                    self.validate(log)
                interrupted = self.processes.any(interrupt.seen)
                if not self.finished and not interrupted:
                    batch = next_batch()
            bar.close()
        if self.processes.is_first and self.iteration > begun:
            seconds, share = measures["seconds"], measures["waited"] / measures["seconds"]
            tqdm.write(
                f"{self.iteration - begun} iterations in {seconds:.0f} s; {share:.1%} of that went "
                "by waiting for batches"
                + (" (more train.num_workers may help)" if share > WAITING_TOLD else ""),
                file=sys.stderr,
            )
        self.save()
        return self.finished


class _Interrupt:
    """Notes Ctrl-C and a scheduler's SIGTERM, so that the iteration can end and be saved.

    A second one kills.
    """

    seen = False

    def __enter__(self) -> Self:
        def note(number: int, frame: object) -> None:
            self.seen = True
            signal.signal(number, self._before[number])

        self._before: dict[int, Any] = {
            int(n): signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
