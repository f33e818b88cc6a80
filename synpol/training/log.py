"""What a training run tells: log.csv, validation.csv and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from synpol.config import Config
from synpol.training.validation import Validated

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
    "seconds",
)


class TrainingLog:
    """``log.csv``, a row an iteration, and TensorBoard beside it in ``tensorboard/``.

    Of several processes the first writes; loss and sides are those of the whole batch.
    """

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

    def validated(self, row: Validated) -> None:
        """Show a validation in TensorBoard; ``validation.csv`` has it already."""
        for name in ("f1", "precision", "recall"):
            self._board.add_scalar(f"validation/{name}", getattr(row, name), row.iteration)

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
