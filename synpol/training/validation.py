"""How good a network is on the validation volume, while it trains and when it is tuned."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from synpol.arrays import Image, join, open_image
from synpol.blockwise.compare import evaluate_blockwise
from synpol.blockwise.decode import decode_blockwise
from synpol.blockwise.output import work_folder
from synpol.blockwise.predict import predict_blockwise
from synpol.blockwise.records import write_whole
from synpol.config import Config, Train, Workers
from synpol.errors import InputError
from synpol.evaluation import Labels, Matching, truth_instances
from synpol.training.checkpoint import best_checkpoint, checkpoint_path
from synpol.training.volumes import OpenVolume, open_volume


@dataclass(frozen=True)
class ValidationVolume:
    """The volume of ``data.validation``, checked.

    Attributes
    ----------
    config : Config
        Without what says which part of another volume is to be predicted, and by whom.
    volume : OpenVolume
    labels : {"polarity", "union"}
    """

    config: Config
    volume: OpenVolume
    labels: Labels

    @classmethod
    def of(cls, config: Config) -> ValidationVolume:
        """
        Raises
        ------
        InputError
            There is none in the config, or it cannot be used.
        """
        validation = config.data.validation
        if validation is None:
            raise InputError("data.validation is not set; name a volume that was not trained on")
        whole = config.predict.model_copy(update={"roi": None, "mask": None})
        config = config.model_copy(update={"predict": whole})
        volume = open_volume(validation, config.data.intensity_range)
        return cls(config, volume, validation.labels)

    @property
    def output(self) -> str:
        """Container of the prediction."""
        return join(self.config.run_dir, "validation")

    def predict(self, checkpoint: Path) -> Image:
        """Predict all of it."""
        return predict_blockwise(self.config, self.volume.raw.path, self.output, checkpoint)

    def truth(self) -> np.ndarray:
        """The true instances, (z, y, x)."""
        truth = np.asarray(self.volume.truth.array[:])
        return truth_instances(truth, self.labels, self.config.decode.dilate_sz)


@dataclass(frozen=True)
class Validated:
    """A row of ``validation.csv``.

    Attributes
    ----------
    iteration : int
    f1, precision, recall : float
        At the IoU of ``tune.iou``: polarity-correct, or of whole synapses where the sides of the
        volume are unknown.
    matched, predicted, truth : int
        Synapses.
    """

    iteration: int
    f1: float
    precision: float
    recall: float
    matched: int
    predicted: int
    truth: int


class Validation:
    """Validations of a run: when they are due, what they gave, which checkpoint was best.

    Parameters
    ----------
    config : Config
        With ``train.validate_every`` above 0.
    iteration : int
        At which the run goes on: what an earlier one wrote beyond it is forgotten.

    Raises
    ------
    InputError
        The validation volume cannot be used.
    """

    def __init__(self, config: Config, iteration: int = 0) -> None:
        # this process has the processor and the GPU already
        alone = Workers(num_workers=1, num_predict_workers=1)
        self.place = ValidationVolume.of(config.model_copy(update={"workers": alone}))
        self.config = config
        self.path = Path(config.run_dir) / "validation.csv"
        self.rows = [row for row in read_validation(self.path) if row.iteration <= iteration]

    def due(self, iteration: int) -> bool:
        """Whether a validation belongs here that has not been done."""
        done = {row.iteration for row in self.rows}
        return validates_at(self.config.train, iteration) and iteration not in done

    def run(self, iteration: int) -> tuple[Validated, Validated]:
        """Score the checkpoint of an iteration and keep it if it is the best so far.

        What is learned afterwards does not depend on whether this was called.

        Returns
        -------
        (Validated, Validated)
            Of this iteration, and the best.
        """
        checkpoint = checkpoint_path(self.config.run_dir, iteration)
        with _undisturbed():
            self.place.predict(checkpoint)
            matching = self._score()
        counts = {f.name: getattr(matching, f.name) for f in fields(Validated)[1:]}
        row = Validated(iteration, **counts)
        best = self.best
        if best is None or row.f1 > best.f1:
            best = row
            write_whole(best_checkpoint(self.config.run_dir), checkpoint.read_bytes())
        self.rows.append(row)
        self._write()
        return row, best

    def _score(self) -> Matching:
        place, decode = self.place, self.config.decode
        decode_blockwise(
            join(place.output, "polarity"),
            place.output,
            block_shape=decode.block_shape,
            thres=decode.thres,
            thres_small=decode.thres_small,
            dilate_sz=decode.dilate_sz,
            exclusive=self.config.exclusive,
            sides=place.labels == "polarity",
        )
        evaluation = evaluate_blockwise(
            open_image(join(place.output, "instances"), channels=0),
            place.volume.truth,
            place.labels,
            self.config.evaluate.min_size,
            decode.dilate_sz,
            block_shape=decode.block_shape,
            work_dir=work_folder(place.output, None),
        )
        return evaluation.score(self.config.tune.iou)[
            "polarity_correct" if place.labels == "polarity" else "synapse"
        ]

    @property
    def best(self) -> Validated | None:
        """The first of the rows with the highest F1."""
        return max(self.rows, key=lambda row: row.f1, default=None)

    @property
    def stops(self) -> bool:
        """Whether the last ``train.patience`` validations brought nothing better."""
        patience = self.config.train.patience
        if not patience or self.best is None:
            return False
        return len(self.rows) - 1 - self.rows.index(self.best) >= patience

    def _write(self) -> None:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, [f.name for f in fields(Validated)])
        rows.writeheader()
        rows.writerows(asdict(row) for row in self.rows)
        write_whole(self.path, text.getvalue().encode())


def validates_at(train: Train, iteration: int) -> bool:
    """Whether a run validates after so many iterations."""
    if not train.validate_every or not iteration:
        return False
    return iteration % train.validate_every == 0 or iteration == train.iterations


def read_validation(path: Path) -> list[Validated]:
    """Rows of a ``validation.csv``; none when there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            Validated(
                int(row["iteration"]),
                float(row["f1"]),
                float(row["precision"]),
                float(row["recall"]),
                int(row["matched"]),
                int(row["predicted"]),
                int(row["truth"]),
            )
            for row in csv.DictReader(file)
        ]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave torch's random numbers and threads as they were: the training goes on with them."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
