"""The training loop: batch after batch, with logs, checkpoints and validations.

Everything random is drawn from the seed and the index of the batch, so a run that was interrupted
goes on with the very batches it would have seen.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from synpol.config import Config
from synpol.errors import InputError
from synpol.images.appearance import Appearance
from synpol.model.device import choose_device
from synpol.training.interrupt import Interrupt
from synpol.training.log import TrainingLog
from synpol.training.processes import Processes
from synpol.training.state import Learned, TrainingState
from synpol.training.validation import Validation, validates_at

#: share of the time spent waiting for batches above which the closing message gives advice
MUCH_WAITING = 0.05


class Trainer:
    """A training run: resumes where `run_dir` holds a checkpoint, and trains to the end.

    Parameters
    ----------
    config : Config
        Checked config of the run.
    data_state : sequence of dict
        Identity of the training data, so that a run does not resume on other data.
    processes : Processes, optional
        Processes that train together; by default this one is alone.
    learned_from : sequence of Appearance
        What the network sees of each training volume; the validation volume has to be like them.

    Attributes
    ----------
    state : TrainingState
        What has been learned so far.
    stopped : bool
        Whether validation has ended the run early.

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
        learned_from: Sequence[Appearance] = (),
    ) -> None:
        self.config = config
        self.processes = processes or Processes(choose_device(config.device))
        self.state = TrainingState(config, data_state, self.processes, learned_from)
        if self.processes.sums([self.iteration]) != [self.iteration * self.processes.size]:
            raise InputError(
                f"process {self.processes.rank} finds iteration {self.iteration} in "
                f"{config.run_dir}, others another: run_dir has to be one folder that all share"
            )
        self.validation: Validation | None = None
        if config.train.validate_every and self.processes.is_first:
            self.validation = Validation(config, self.iteration, self.state.device)
            self.validation.volume.check_like(learned_from)
        self.stopped = self._stops()

    @property
    def iteration(self) -> int:
        """Number of iterations that are done."""
        return self.state.iteration

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stopped or self.iteration >= self.config.train.iterations

    def _stops(self) -> bool:
        return self.processes.any(self.validation is not None and self.validation.stops)

    def validate(self, log: TrainingLog | None = None) -> None:
        """Validate if it is due and has not been done; the other processes wait."""
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
            Returns the seconds spent waiting for batches so far.

        Returns
        -------
        bool
            Whether all iterations are done.
        """
        train = self.config.train
        batch = next_batch()  # before anything is kept: data that cannot be used shows here
        if self.iteration == 0:
            self.state.save()
        begun, started, waited_before = self.iteration, time.perf_counter(), waited()
        draws, patches, interrupted = 0, 0, False
        with Interrupt() as interrupt, self._log() as log, self._bar() as bar:
            while not self.finished and not interrupted:
                learned = self.state.learn(batch)
                count, drawn = batch["draws"].size, int(batch["draws"].sum())
                patches, draws = patches + count, draws + drawn
                measures = self._measures(learned) | {"acceptance": count / drawn}
                measures["waited"] = waited() - waited_before
                measures["seconds"] = time.perf_counter() - started
                if log is not None:
                    log.write(self.iteration, measures)
                    if self.iteration % train.image_every == 0:
                        log.images(self.iteration, batch, learned.logits, self.state.channels)
                bar.update()
                bar.set_postfix(
                    loss=f"{measures['loss']:.3f}",
                    side=f"{measures['side_right']:.2f}",
                    accepted=f"{patches / draws:.2f}",
                    refresh=False,
                )
                validates = validates_at(train, self.iteration)
                if self.iteration % train.checkpoint_every == 0 or validates:
                    self._save(log)
                if validates:
                    self.validate(log)
                interrupted = self.processes.any(interrupt.seen)
                if not self.finished and not interrupted:
                    batch = next_batch()
            self._save(log)
        if self.processes.is_first and self.iteration > begun:
            _tell_waiting(self.iteration - begun, measures["seconds"], measures["waited"])
        return self.finished

    def _save(self, log: TrainingLog | None) -> None:
        """Write a checkpoint after the rows of the log that lead to it."""
        if log is not None:
            log.sync()
        self.state.save()

    def _measures(self, learned: Learned) -> dict[str, float]:
        """Average the terms over the processes; add the share of right sides and the rate."""
        own = [*learned.terms.values(), learned.right, learned.known]
        *sums, right, known = self.processes.sums(own)
        size = self.processes.size
        means = {k: v / size for k, v in zip(learned.terms, sums, strict=True)}
        return means | {"side_right": right / known if known else math.nan, "lr": learned.lr}

    def _log(self) -> contextlib.AbstractContextManager[TrainingLog | None]:
        if not self.processes.is_first:
            return contextlib.nullcontext()
        loss = self.config.loss
        terms = [*loss.weights, *(["deep_supervision"] if loss.deep_supervision else [])]
        return TrainingLog(Path(self.config.run_dir), terms, self.iteration)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.config.train.iterations,
            initial=self.iteration,
            unit="it",
            desc="train",
            smoothing=0.1,
            mininterval=0.5 if sys.stderr.isatty() else 15,
            disable=not self.processes.is_first,
        )


def _tell_waiting(iterations: int, seconds: float, waited: float) -> None:
    share = waited / seconds
    advice = " (more train.num_workers may help)" if share > MUCH_WAITING else ""
    tqdm.write(
        f"{iterations} iterations in {seconds:.0f} s; {share:.1%} of that went by waiting for "
        f"batches{advice}",
        file=sys.stderr,
    )
