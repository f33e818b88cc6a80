"""How good a network is on the validation volume, while it trains and when it is tuned."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synpol.blockwise.records import work_folder
from synpol.config import Config, Train, Workers
from synpol.decoding.job import decode_blockwise
from synpol.errors import InputError
from synpol.evaluation.matching import Matching
from synpol.evaluation.overlaps import evaluate_blockwise
from synpol.files import join, whole_file
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.model.trained import best_checkpoint, load_checkpoint
from synpol.polarity import LabelKind
from synpol.prediction.job import predict_blockwise
from synpol.training.checkpoint import checkpoint_path
from synpol.training.volumes import OpenVolume, open_volume

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationVolume:
    """The volume of ``data.validation``, checked.

    Attributes
    ----------
    config : Config
        Without what says which part of another volume is to be predicted.
    volume : OpenVolume
    labels : {"polarity", "union"}
    output : str
        Container of the prediction.
    """

    config: Config
    volume: OpenVolume
    labels: LabelKind
    output: str

    @classmethod
    def of(cls, config: Config, folder: str = "validation") -> ValidationVolume:
        """
        Parameters
        ----------
        config : Config
        folder : str
            Of the prediction, in ``run_dir``.

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
        return cls(config, volume, validation.labels, join(config.run_dir, folder))

    def predict(self, checkpoint: Path) -> Image:
        """Predict all of it."""
        return predict_blockwise(self.config, self.volume.raw.path, self.output, checkpoint)

    def truth(self) -> np.ndarray:
        """The labels, (z, y, x)."""
        return np.asarray(self.volume.truth.array[:])

    def digest(self) -> str:
        """Hash of everything but the network that a score of `Validation` depends on."""
        config = self.config
        whole = config.model_dump(
            mode="json",
            include={
                "data": {"validation", "intensity_range"},
                "predict": {"overlap", "blending", "flip_axes"},
                "decode": {"thres", "thres_small", "dilate_sz"},
                "tune": {"iou"},
                "evaluate": {"min_size"},
            },
        )
        sources = [identity_of(image) for image in (self.volume.raw, self.volume.truth)]
        return hash_of([whole, config.window, sources])[:16]


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
    settings : str
        `ValidationVolume.digest`: rows of other settings cannot be compared.
    """

    iteration: int
    f1: float
    precision: float
    recall: float
    matched: int
    predicted: int
    truth: int
    settings: str


class Validation:
    """Validations of a run: when they are due, what they gave, which checkpoint was best.

    Parameters
    ----------
    config : Config
        With ``train.validate_every`` above 0.
    iteration : int
        At which the run goes on: what an earlier one wrote beyond it is forgotten, and so is what
        was scored with other settings.
    device : torch.device, optional
        That this process trains on; by default the config decides.

    Raises
    ------
    InputError
        The validation volume cannot be used.
    """

    def __init__(
        self, config: Config, iteration: int = 0, device: torch.device | None = None
    ) -> None:
        # this process has the processor and the GPU already
        alone: dict[str, Any] = {"workers": Workers(num_workers=1, num_predict_workers=1)}
        alone |= {} if device is None else {"device": str(device)}
        # its own folder, since pipelines/tune.py may run beside
        self.place = ValidationVolume.of(config.model_copy(update=alone), "training_validation")
        self.settings = self.place.digest()
        self.config = config
        self.path = Path(config.run_dir) / "validation.csv"
        self.rows = [
            row
            for row in read_validation(self.path)
            if row.iteration <= iteration and row.settings == self.settings
        ]
        self._mend_best()

    def _mend_best(self) -> None:
        """Let the best checkpoint be that of the best row, or forget both."""
        kept = best_checkpoint(self.config.run_dir)
        if self.best is not None:
            found = load_checkpoint(kept)["iteration"] if kept.exists() else None
            if found == self.best.iteration:
                return
            original = checkpoint_path(self.config.run_dir, self.best.iteration)
            if original.exists():
                _copy_whole(original, kept)
                return
            _log.warning(
                "%s is not there any more, which validation found best; validation begins anew",
                original,
            )
            self.rows = []
        kept.unlink(missing_ok=True)

    def due(self, iteration: int) -> bool:
        """Whether a validation belongs here that has not been done."""
        done = {row.iteration for row in self.rows}
        return validates_at(self.config.train, iteration) and iteration not in done

    def run(self, iteration: int) -> tuple[Validated, Validated | None]:
        """Score the checkpoint of an iteration and keep it if it is the best so far.

        What is learned afterwards does not depend on whether this was called.

        Returns
        -------
        (Validated, Validated or None)
            Of this iteration, and the best.
        """
        checkpoint = checkpoint_path(self.config.run_dir, iteration)
        with _undisturbed():
            self.place.predict(checkpoint)
            matching = self._score()
        counts = {f.name: getattr(matching, f.name) for f in fields(Validated)[1:-1]}
        row = Validated(iteration, **counts, settings=self.settings)
        self.rows.append(row)
        self._write()
        if row is self.best:  # after the row, so that `_mend_best` can make up for a kill between
            _copy_whole(checkpoint, best_checkpoint(self.config.run_dir))
        return row, self.best

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
        """The row with the highest F1, of equals the last; None while nothing was found at all."""
        found = max(self.rows, key=lambda row: (row.f1, row.iteration), default=None)
        return found if found is not None and found.f1 > 0 else None

    @property
    def stops(self) -> bool:
        """Whether the last ``train.patience`` validations brought nothing better.

        Those before the first hit do not count: sides may stay tied for long before they come.
        """
        patience, best = self.config.train.patience, self.best
        if not patience or best is None:
            return False
        first = next(n for n, row in enumerate(self.rows) if row.f1 == best.f1)
        return len(self.rows) - 1 - first >= patience

    def _write(self) -> None:
        with whole_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            rows = csv.DictWriter(file, [f.name for f in fields(Validated)])
            rows.writeheader()
            rows.writerows(asdict(row) for row in self.rows)


def _copy_whole(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


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
                row.get("settings", ""),
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
