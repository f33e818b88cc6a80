"""The training loop: optimiser, schedule, averaged weights, checkpoints and logs.

Everything random is drawn from (seed, batch index), so a run that was interrupted and resumed
goes on with the very batches it would have seen.
"""

from __future__ import annotations

import csv
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from synpol.config import Config, Train
from synpol.errors import InputError
from synpol.model import build_loss, build_model
from synpol.model.device import autocast, choose_device, choose_dtype
from synpol.training.checkpoint import (
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    training_identity,
)

COLUMNS = (
    "iteration",
    "loss",
    "bce",
    "dice",
    "side_contrast",
    "non_overlap",
    "side_right",
    "acceptance",
    "lr",
    "waited",
)


class Trainer:
    """A training run: what is learned so far and how to go on.

    Parameters
    ----------
    config : Config
        Checked; `Trainer` resumes from the newest checkpoint in its `run_dir`.
    data_state : list of dict
        What tells the state of the training data, so that a run does not resume on other data.

    Raises
    ------
    InputError
        The run in `run_dir` was started with other settings.
    """

    def __init__(self, config: Config, data_state: Sequence[dict[str, Any]] = ()) -> None:
        self.config = config
        self.data_state = list(data_state)
        self.device = choose_device(config.device)
        self.dtype = choose_dtype(config.train.precision, self.device)
        torch.manual_seed(config.seed)
        self.model = build_model(config.model).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last_3d)
        self.loss = build_loss(config).to(self.device)
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
        newest = latest_checkpoint(config.run_dir)
        if newest is not None:
            self._resume(load_checkpoint(newest), newest)

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
                key = next(k for k in ours if ours[k] != found.get(k))
                section, ours, found = f"{section}.{key}", ours[key], found.get(key)
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
        self.iteration = state["iteration"]

    def save(self) -> None:
        """Write a checkpoint of this iteration."""
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
            logits = self.model(raw.contiguous(memory_format=torch.channels_last_3d))
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
        lr = self.schedule.get_last_lr()[0]
        self.schedule.step()
        self.iteration += 1
        if self.average is not None:
            if self.iteration <= self.config.train.ema_warmup:
                self.average.n_averaged.zero_()
            self.average.update_parameters(self.model)
        measures = {name: term.item() for name, term in terms.items()}
        measures |= {"loss": total.item(), "lr": lr}
        measures["side_right"] = side_right(logits.detach(), target, self.config.exclusive)
        return measures, logits.detach()

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
        with _Interrupt() as interrupt, TrainingLog(self.config, self.iteration) as log:
            bar = tqdm(
                total=train.iterations,
                initial=self.iteration,
                unit="it",
                desc="train",
                smoothing=0.1,
                mininterval=0.5 if sys.stderr.isatty() else 15,
            )
            draws, patches = 0, 0
            while self.iteration < train.iterations and not interrupt.seen:
                measures, logits = self.step(batch)
                drawn = int(batch["draws"].sum())
                draws, patches = draws + drawn, patches + batch["draws"].size
                measures["acceptance"] = batch["draws"].size / drawn
                measures["waited"] = waited()
                log.write(self.iteration, measures)
                if self.iteration % train.image_every == 0:
                    log.images(self.iteration, batch, logits, self.config.exclusive)
                bar.update()
                bar.set_postfix(
                    loss=f"{measures['loss']:.3f}",
                    side=f"{measures['side_right']:.2f}",
                    accepted=f"{patches / draws:.2f}",
                    refresh=False,
                )
                if self.iteration % train.checkpoint_every == 0:
                    self.save()
                if self.iteration < train.iterations:
                    batch = next_batch()
            bar.close()
        if self.iteration % train.checkpoint_every:
            self.save()
        return self.iteration >= train.iterations


def learning_rate_factor(train: Train) -> Callable[[int], float]:
    """Linear warm-up, then a cosine from `lr` to `lr_min`, as a factor of `lr`."""

    def factor(iteration: int) -> float:
        if iteration < train.warmup:
            return (iteration + 1) / train.warmup
        done = (iteration - train.warmup) / max(1, train.iterations - train.warmup)
        low = train.lr_min / train.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def build_optimizer(model: torch.nn.Module, train: Train) -> torch.optim.Optimizer:
    """The optimizer of a config."""
    groups = _parameter_groups(model, train.weight_decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)
    return torch.optim.AdamW(groups, lr=train.lr)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]  # norms and biases
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def side_right(logits: torch.Tensor, target: torch.Tensor, exclusive: bool) -> float:
    """Fraction of the voxels of known side that get the right one; NaN when there are none."""
    if exclusive:
        pre, post = target == 1, target == 2
        says_pre = logits[:, 1] > logits[:, 2]
    else:
        pre, post = target[:, 0] > 0, target[:, 1] > 0
        says_pre = logits[:, 0] > logits[:, 1]
    known = int(pre.sum() + post.sum())
    right = int((says_pre & pre).sum() + (~says_pre & post).sum())
    return right / known if known else math.nan


class _Interrupt:
    """Notes the first Ctrl-C so that the iteration can end and be saved; a second one kills."""

    seen = False

    def __enter__(self) -> Self:
        def note(*_: object) -> None:
            self.seen = True
            signal.signal(signal.SIGINT, self._before)

        self._before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)


class TrainingLog:
    """``log.csv``, a row an iteration, and TensorBoard beside it in ``tensorboard/``."""

    def __init__(self, config: Config, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(config.run_dir)
        self.path = folder / "log.csv"
        kept = [row for row in read_log(self.path) if int(row["iteration"]) <= iteration]
        self._file = open(self.path, "w", newline="")  # noqa: SIM115 closed in __exit__
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()
        self._rows.writerows(kept)
        self._board = SummaryWriter(folder / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, measures: dict[str, float]) -> None:
        row = {k: f"{v:.6g}" for k, v in measures.items()}
        self._rows.writerow({"iteration": iteration, **row})
        if iteration % 10 == 0:
            self._file.flush()
            for name, value in measures.items():
                self._board.add_scalar(name, value, iteration)

    def images(
        self, iteration: int, batch: dict[str, np.ndarray], logits: torch.Tensor, exclusive: bool
    ) -> None:
        """Middle section of the first patch: image, what was asked for, what came."""
        middle = batch["raw"].shape[2] // 2
        raw = batch["raw"][0, 0, middle]
        target = batch["target"][0]
        if exclusive:
            shown = logits[0, :, middle].softmax(0)
            wanted = np.stack([target == c for c in range(3)]).astype(np.float32)
        else:
            shown, wanted = logits[0, :, middle].sigmoid(), target
        self._board.add_image("raw", np.clip(raw, 0, 1), iteration, dataformats="HW")
        self._board.add_image("target", wanted[:, middle], iteration)
        self._board.add_image("prediction", shown.float().cpu().numpy(), iteration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()


def read_log(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a ``log.csv``; nothing when there is none, and no half-written last row."""
    if path.exists():
        with open(path, newline="") as file:
            yield from [r for r in csv.DictReader(file) if r.get("loss") and None not in r]
