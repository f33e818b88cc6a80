"""What a training run logs: ``log.csv`` and TensorBoard."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from synpol.files import sync_to_disk, whole_file
from synpol.polarity import Channels

if TYPE_CHECKING:  # reading a log needs no torch, which takes seconds to import
    import torch

    from synpol.training.validation import Validated

_log = logging.getLogger(__name__)

#: columns of ``log.csv`` before and after those of the loss terms
_FIRST = ("iteration", "loss")
_LAST = ("side_right", "acceptance", "lr", "waited", "seconds")


def loss_terms(columns: Iterable[str]) -> list[str]:
    """Return which columns of a log hold terms of the loss."""
    return [name for name in columns if name not in (*_FIRST, *_LAST)]


class TrainingLog:
    """``log.csv``, a row an iteration, and TensorBoard beside it in ``tensorboard/``.

    Of several processes the first one writes; the measures are those of the whole batch.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    terms : iterable of str
        Names of the loss terms, each a column.
    iteration : int
        Iteration at which the run goes on. Later rows of an earlier log are dropped.
    """

    def __init__(self, folder: Path, terms: Iterable[str], iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.csv"
        kept = [row for row in read_log(path) if int(row["iteration"]) <= iteration]
        older = loss_terms(kept[0]) if kept else []
        columns = dict.fromkeys([*_FIRST, *terms, *older, *_LAST])
        with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
            earlier = csv.DictWriter(file, list(columns))
            earlier.writeheader()
            earlier.writerows(kept)
        self._path = path
        self._file = open(path, "a", newline="")  # noqa: SIM115 closed in __exit__
        self._rows = csv.DictWriter(self._file, list(columns))
        self._board = SummaryWriter(folder / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, measures: Mapping[str, float]) -> None:
        """Add the row of an iteration; every tenth iteration makes the curves of TensorBoard."""
        row = {k: f"{v:.6g}" for k, v in measures.items()}
        self._rows.writerow({"iteration": iteration, **row})
        if iteration % 10 == 0:
            self._file.flush()
            for name, value in measures.items():
                self._board.add_scalar(name, value, iteration)

    def sync(self) -> None:
        """Wait until a power cut cannot take away the rows so far; a checkpoint comes after."""
        self._file.flush()
        sync_to_disk(self._path)

    def validated(self, row: Validated) -> None:
        """Add a validation to TensorBoard; ``validation.csv`` holds it already."""
        for name in ("f1", "precision", "recall"):
            self._board.add_scalar(f"validation/{name}", getattr(row, name), row.iteration)

    def images(
        self,
        iteration: int,
        batch: Mapping[str, np.ndarray],
        logits: torch.Tensor,
        channels: Channels,
    ) -> None:
        """Add the middle section of the first patch: image, target and prediction."""
        from synpol.model.activation import probability_of

        middle = batch["raw"].shape[2] // 2
        raw = batch["raw"][0, 0, middle]
        target = batch["target"][0]
        if channels.exclusive:
            target = np.stack([target == c for c in range(channels.count)]).astype(np.float32)
        shown = probability_of(logits[0, :, middle], channels, axis=0)
        self._board.add_image("raw", np.clip(raw, 0, 1), iteration, dataformats="HW")
        self._board.add_image("target", target[:, middle], iteration)
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
    """Read the whole rows of a ``log.csv``, neither damaged nor unfinished; none without a file."""
    if not path.exists():
        return
    with open(path, newline="", errors="replace") as file:
        rows = csv.DictReader(line.replace("\0", "") for line in file)
        damaged = 0
        while True:
            try:
                row = next(rows, None)
            except csv.Error:
                damaged += 1
                continue
            if row is None:
                break
            if _is_whole(row):
                yield row
            else:
                damaged += 1
    if damaged > 1:  # the last one is unfinished after a kill
        _log.warning("%s has %d damaged lines, which are left out", path, damaged)


def _is_whole(row: dict[str, str]) -> bool:
    """Whether a row of a log has an iteration, a loss and numbers in all its columns."""
    if None in row or not row.get("loss") or not (row.get("iteration") or "").isdecimal():
        return False
    try:
        return all(
            value is None or value == "" or float(value) is not None for value in row.values()
        )
    except ValueError:
        return False
