"""What a training run has learned so far: built, advanced by a batch, saved and resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from synpol.config import Config
from synpol.errors import InputError
from synpol.images.appearance import Appearance
from synpol.model import build_loss, build_model
from synpol.model.batch_norm import normalise_by_lines
from synpol.model.content import check_weights
from synpol.model.convolution import convolve_by_threes
from synpol.model.deep_supervision import DeeplySupervised
from synpol.model.device import autocast, choose_dtype, keep_freed_memory
from synpol.model.losses import side_right
from synpol.model.trained import latest_checkpoint, load_checkpoint
from synpol.polarity import Channels
from synpol.training.checkpoint import (
    check_same_run,
    checkpoint_path,
    save_checkpoint,
    training_identity,
)
from synpol.training.initial import Initial
from synpol.training.optimizer import build_optimizer, learning_rate_factor
from synpol.training.processes import Processes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """Result of one iteration.

    Attributes
    ----------
    terms : dict of str to float
        The loss, under ``loss``, and its terms, on this process's part of the batch.
    right, known : int
        Voxels that got the right side, and voxels of known side.
    lr : float
        Learning rate of the iteration.
    logits : (batch, 3, z, y, x) tensor
        Output of the network.
    """

    terms: dict[str, float]
    right: int
    known: int
    lr: float
    logits: torch.Tensor


class TrainingState:
    """Network, loss, optimizer, learning rate and averaged weights of a run.

    The state is that of the newest checkpoint in ``run_dir``; without one, training begins, with
    the weights of ``train.initial`` or with random ones.

    Parameters
    ----------
    config : Config
        Checked config of the run.
    data_state : sequence of dict
        Identity of the training data, so that a run does not resume on other data.
    processes : Processes
        Processes that train together.
    learned_from : sequence of Appearance
        What the network sees of each training volume.

    Attributes
    ----------
    iteration : int
        Number of iterations that are done.
    channels : Channels
        Channels of the network.
    device : torch.device
        Device of this process.

    Raises
    ------
    InputError
        The run in ``run_dir`` was started with other settings or on other data; or the weights of
        ``train.initial`` do not fit.
    """

    def __init__(
        self,
        config: Config,
        data_state: Sequence[dict[str, Any]],
        processes: Processes,
        learned_from: Sequence[Appearance] = (),
    ) -> None:
        self.config = config
        self.data_state = list(data_state)
        self.learned_from = tuple(learned_from)
        self.iteration = 0
        self._processes = processes
        self.device = processes.device
        self.channels = Channels.of(config.exclusive)
        self._dtype = choose_dtype(config.train.precision, self.device)
        torch.manual_seed(config.seed)
        model = build_model(config.model)
        found = self._newest_readable()
        initial = Initial.of(config)
        self._initial = initial.digest if initial is not None else None
        if initial is not None and found is None:
            initial.put_into(model, config, self.learned_from)
        learner = DeeplySupervised(model, config.model, config.loss.deep_supervision)
        learner = learner.to(self.device)
        learner = learner.to(memory_format=torch.channels_last_3d)
        if self.device.type == "cpu":
            keep_freed_memory()
            if config.model.norm != "none":  # an activation would overwrite what it returns, a view
                convolve_by_threes(learner)
            normalise_by_lines(learner)
            for parameter in learner.parameters():  # they cut no free memory into pieces later
                parameter.grad = torch.zeros_like(parameter)
        if processes.size > 1:  # batch norm, where there is any, is of the whole batch
            learner = torch.nn.SyncBatchNorm.convert_sync_batchnorm(learner)
        self._learner, self._model = learner, learner.network
        self._loss = build_loss(config.loss, self.channels, config.data.has_unknown).to(self.device)
        self._optimizer = build_optimizer(learner, config.train)
        # it keeps small gradients of float16 above zero, and does nothing for the other types
        half = self._dtype == torch.float16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, learning_rate_factor(config.train)
        )
        self._average: AveragedModel | None = None
        if config.train.ema:
            average = get_ema_multi_avg_fn(config.train.ema)
            self._average = AveragedModel(self._model, multi_avg_fn=average, use_buffers=True)
        self._saved_iteration: int | None = None
        if found is not None:
            self._resume(*found)
        self._answers = processes.together(learner)

    def _resume(self, newest: Path, stored: Mapping[str, Any]) -> None:
        """Take over the newest checkpoint."""
        try:
            check_same_run(newest, stored, self.config, self.data_state, self._initial)
            check_weights(newest, "model", stored["model"], self._model.state_dict())
            heads = self._learner.heads.state_dict()
            check_weights(newest, "heads", stored.get("heads", {}), heads)
            self._take_over(stored)
        except InputError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{newest} is no checkpoint that this run can go on from "
                f"({error or type(error).__name__!s:.200}); remove it, and training goes on from "
                "the one before"
            ) from error

    def _newest_readable(self) -> tuple[Path, dict[str, Any]] | None:
        """Read the newest checkpoint; damaged ones are set aside, so that they stop no run."""
        while (newest := latest_checkpoint(self.config.run_dir)) is not None:
            try:
                return newest, load_checkpoint(newest)
            except InputError as error:
                if self._processes.size > 1:  # the others read it too
                    raise
                aside = newest.with_suffix(".damaged")
                newest.replace(aside)
                _log.warning("%s. It is now %s; training goes on without it", error, aside)
        return None

    def _take_over(self, stored: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        self._model.load_state_dict(stored["model"])
        self._learner.heads.load_state_dict(stored.get("heads", {}))
        self._optimizer.load_state_dict(stored["optimizer"])
        self._schedule.load_state_dict(stored["schedule"])
        before, now = stored["config"]["train"]["iterations"], self.config.train.iterations
        if before != now:
            self._lengthen(before, now)
        self._scaler.load_state_dict(stored.get("scaler", {}))
        if self._average is not None:
            self._average.module.load_state_dict(stored["ema"])
            self._average.n_averaged.fill_(stored["averaged"])
        self.iteration = self._saved_iteration = stored["iteration"]

    def _lengthen(self, before: int, now: int) -> None:
        """Let the learning rate follow the cosine of the new number of iterations from here on."""
        schedule, factor = self._schedule, learning_rate_factor(self.config.train)
        old = schedule.get_last_lr()[0]
        rates = [base * factor(schedule.last_epoch) for base in schedule.base_lrs]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates
        if self._processes.is_first:
            _log.warning(
                "%s was trained towards %d iterations and goes on towards %d: the learning rate "
                "follows the longer cosine from here on, %.3g in place of %.3g now",
                self.config.run_dir,
                before,
                now,
                rates[0],
                old,
            )

    def save(self) -> None:
        """Write a checkpoint of this iteration, unless there is one; only one process does."""
        if not self._processes.is_first or self._saved_iteration == self.iteration:
            return
        self._saved_iteration = self.iteration
        average = self._average
        save_checkpoint(
            checkpoint_path(self.config.run_dir, self.iteration),
            {
                "iteration": self.iteration,
                "config": training_identity(self.config, self._initial),
                "data_state": self.data_state,
                "learned_from": [one.kept() for one in self.learned_from],
                "model": self._model.state_dict(),
                "heads": self._learner.heads.state_dict(),
                "ema": average.module.state_dict() if average is not None else None,
                "averaged": int(average.n_averaged) if average is not None else 0,
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "scaler": self._scaler.state_dict(),
            },
        )

    def learn(self, batch: Mapping[str, np.ndarray]) -> Learned:
        """Do one iteration.

        Parameters
        ----------
        batch : mapping of str to array
            Holds raw ``(batch, 1, z, y, x)``, target and weights.

        Raises
        ------
        RuntimeError
            The loss or its gradient is not finite.
        """
        raw, target, weights = (
            torch.from_numpy(np.ascontiguousarray(batch[k])).to(self.device)
            for k in ("raw", "target", "weights")
        )
        self._learner.train()
        with autocast(self.device, self._dtype):
            answers = self._answers(raw.contiguous(memory_format=torch.channels_last_3d))
        total, terms = self._learner.losses(self._loss, answers, target, weights)
        self._check_finite("loss", total)
        self._optimizer.zero_grad(set_to_none=self.device.type != "cpu")
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self._learner.parameters(), self.config.train.gradient_clipping
        )
        if not self._scaler.is_enabled():  # it skips a step whose gradient is not finite
            self._check_finite("gradient", norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        lr = float(self._schedule.get_last_lr()[0])
        self._schedule.step()
        self.iteration += 1
        if self._average is not None:
            if self.iteration <= self.config.train.ema_warmup:
                self._average.n_averaged.zero_()
            self._average.update_parameters(self._model)
        values = {name: term.item() for name, term in {"loss": total, **terms}.items()}
        shown = answers[0].detach()
        right, known = side_right(shown, target, self.channels)
        return Learned(values, right, known, lr, shown)

    def _check_finite(self, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise RuntimeError(
                f"the {name} is {value.item()} at iteration {self.iteration}; the checkpoint "
                "before it is kept. Lower train.lr, or use train.precision=float32"
            )
