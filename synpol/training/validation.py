"""Score a network on the validation volume while it trains, and keep the best checkpoint."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
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
from synpol.images.appearance import Appearance
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.labels import no_numbers
from synpol.model.trained import best_checkpoint, load_checkpoint
from synpol.polarity import LabelKind
from synpol.prediction.contract import check_like
from synpol.prediction.engine import check_engine, engines_of, with_engine
from synpol.prediction.job import predict_blockwise
from synpol.prediction.roi import roi_of
from synpol.training.checkpoint import checkpoint_path
from synpol.training.volumes import OpenVolume, open_volume

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationVolume:
    """The volume of ``data.validation``, opened and checked.

    Attributes
    ----------
    config : Config
        Config of the run, without the keys of ``predict`` that are about another volume.
    opened : OpenVolume
        Image and labels.
    labels : {"polarity", "union"}
        What the labels mark: sides of synapses, or synapses without sides.
    output : str
        Container of the prediction.
    """

    config: Config
    opened: OpenVolume
    labels: LabelKind
    output: str

    @classmethod
    def of(cls, config: Config, folder: str = "validation") -> ValidationVolume:
        """Open the validation volume of a config.

        Parameters
        ----------
        config : Config
            Config of the run.
        folder : str
            Folder of the prediction in ``run_dir``.

        Raises
        ------
        InputError
            The config has no validation volume, or it cannot be used.
        """
        validation = config.data.validation
        if validation is None:
            raise InputError("data.validation is not set; name a volume that was not trained on")
        opened = open_volume(validation, config.data.intensity_range, missing=True)
        if opened.semantic:
            raise no_numbers(opened.truth)
        roi = roi_of(opened.raw) if opened.raw.is_part else None  # the part with labels
        own = {"roi": roi, "mask": None, "intensity_range": validation.intensity_range}
        config = config.model_copy(update={"predict": config.predict.model_copy(update=own)})
        return cls(config, opened, validation.labels, join(config.run_dir, folder))

    def check_like(self, learned: Sequence[Appearance]) -> None:
        """Refuse a volume that looks otherwise than those that the network learns from."""
        if learned:
            check_like(self.config, self.opened.raw, learned, "the network of this run")

    def predict(self, checkpoint: Path) -> Image:
        """Predict the volume with the network of a checkpoint."""
        return predict_blockwise(self.config, self.opened.raw.source, self.output, checkpoint)

    def truth(self) -> np.ndarray:
        """Read the labels, (z, y, x)."""
        return np.asarray(self.opened.truth.array[:])

    def digest(self) -> str:
        """Return the hash of everything, except the network, that a validation score depends on."""
        config = self.config.laid_out()
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
        sources = [identity_of(image) for image in (self.opened.raw, self.opened.truth)]
        others = ["resampled"] if config.predict.resample else []
        others += ["openvino"] if config.predict.engine == "openvino" else []
        others += ["int8"] if config.predict.int8 else []
        return hash_of([whole, config.window, sources, *others])[:16]


@dataclass(frozen=True)
class Validated:
    """A row of ``validation.csv``.

    Attributes
    ----------
    iteration : int
        Iteration of the checkpoint.
    f1, precision, recall : float
        Scores at the IoU of ``tune.iou``: polarity-correct, or of whole synapses where the sides of
        the volume are unknown.
    matched, predicted, truth : int
        Numbers of synapses.
    settings : str
        `ValidationVolume.digest`. Rows of different settings cannot be compared.
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
    """The validations of a run: when they are due, their scores, and the best checkpoint.

    Parameters
    ----------
    config : Config
        Config of the run, with ``train.validate_every`` above 0.
    iteration : int
        Iteration at which the run goes on. Rows of later iterations are dropped, and so are rows
        of other settings.
    device : torch.device, optional
        Device that this process trains on; by default the config decides.

    Attributes
    ----------
    rows : list of Validated
        Validations so far, in the order of their iterations.

    Raises
    ------
    InputError
        The validation volume cannot be used.
    """

    def __init__(
        self, config: Config, iteration: int = 0, device: torch.device | None = None
    ) -> None:
        # the training process has the processors and the GPU already, so it predicts by itself
        alone: dict[str, Any] = {"workers": Workers(num_workers=1, num_predict_workers=1)}
        alone |= {} if device is None else {"device": str(device)}
        # a folder of its own, because pipelines/tune.py may run at the same time
        self.volume = ValidationVolume.of(config.model_copy(update=alone), "training_validation")
        self.path = Path(config.run_dir) / "validation.csv"
        asked = self.volume.config
        layouts = [asked, asked.laid_out(recipe=True)]
        choices = [
            replace(self.volume, config=with_engine(layout, engine))
            for layout in layouts
            for engine in engines_of(asked)
        ]
        begun = {row.settings for row in read_validation(self.path)}
        # goes on with the windows and the engine that it was begun with
        self.volume = next((v for v in choices if v.digest() in begun), choices[0])
        engine = self.volume.config.predict.engine
        check_engine(engine, asked, f"the validations of {config.run_dir} were")
        self.settings = self.volume.digest()
        self.config = config
        self.rows = [
            row
            for row in read_validation(self.path)
            if row.iteration <= iteration and row.settings == self.settings
        ]
        self._mend_best()

    def _mend_best(self) -> None:
        """Make the best checkpoint that of the best row; without a checkpoint, drop all rows."""
        kept = best_checkpoint(self.config.run_dir)
        if self.best is not None:
            if _iteration_of(kept) == self.best.iteration:
                return
            original = checkpoint_path(self.config.run_dir, self.best.iteration)
            if original.exists():
                _copy_whole(original, kept)
                return
            _log.warning(
                "%s, the best checkpoint of the validations, is gone; validation begins anew",
                original,
            )
            self.rows = []
        kept.unlink(missing_ok=True)

    def due(self, iteration: int) -> bool:
        """Return whether a validation is due at an iteration and has not been done."""
        done = {row.iteration for row in self.rows}
        return validates_at(self.config.train, iteration) and iteration not in done

    def run(self, iteration: int) -> tuple[Validated, Validated | None]:
        """Score the checkpoint of an iteration and keep it if it is the best so far.

        A validation changes nothing of what is learned afterwards.

        Returns
        -------
        row : Validated
            Scores of this iteration.
        best : Validated or None
            Best row so far; see `best`.
        """
        checkpoint = checkpoint_path(self.config.run_dir, iteration)
        with torch.random.fork_rng():
            self.volume.predict(checkpoint)
            matching = self._score()
        counts = {f.name: getattr(matching, f.name) for f in fields(Validated)[1:-1]}
        row = Validated(iteration, **counts, settings=self.settings)
        self.rows.append(row)
        self._write()
        if row is self.best:  # after the row: `_mend_best` makes up for a kill in between
            _copy_whole(checkpoint, best_checkpoint(self.config.run_dir))
        return row, self.best

    def _score(self) -> Matching:
        volume, decode = self.volume, self.config.decode
        decode_blockwise(
            join(volume.output, "polarity"),
            volume.output,
            block_shape=decode.block_shape,
            thres=decode.thres,
            thres_small=decode.thres_small,
            dilate_sz=decode.dilate_sz,
            exclusive=self.config.exclusive,
            sides=volume.labels == "polarity",
        )
        evaluation = evaluate_blockwise(
            open_image(join(volume.output, "instances"), channels=0),
            volume.opened.truth,
            volume.labels,
            self.config.evaluate.min_size,
            decode.dilate_sz,
            block_shape=decode.block_shape,
            work_dir=work_folder(volume.output, None),
        )
        return evaluation.score(self.config.tune.iou)[
            "polarity_correct" if volume.labels == "polarity" else "synapse"
        ]

    @property
    def best(self) -> Validated | None:
        """Row with the highest F1, of equal ones the last; None while every F1 is 0."""
        best = max(self.rows, key=lambda row: (row.f1, row.iteration), default=None)
        return best if best is not None and best.f1 > 0 else None

    @property
    def stops(self) -> bool:
        """Whether the last ``train.patience`` validations were not better than one before.

        Validations with an F1 of 0 do not count, because the sides may stay tied for a long time
        first.
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


def _iteration_of(checkpoint: Path) -> int | None:
    """Return the iteration of a checkpoint; None where there is none that can be read."""
    try:
        return int(load_checkpoint(checkpoint)["iteration"])
    except InputError:
        return None


def _copy_whole(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def validates_at(train: Train, iteration: int) -> bool:
    """Return whether a run validates after an iteration."""
    if not train.validate_every or not iteration:
        return False
    return iteration % train.validate_every == 0 or iteration == train.iterations


def read_validation(path: Path) -> list[Validated]:
    """Read the rows of a ``validation.csv``; none if there is no such file."""
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            return _validated_rows(file)
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        _log.warning("%s is damaged (%s); validation begins anew", path, error)
        return []


def scores_of(run_dir: str, checkpoint: Path, iteration: int) -> dict[str, float]:
    """Return the scores of the last validation of a checkpoint of a run; none where there is none.

    Parameters
    ----------
    run_dir : str
        Folder of the run.
    checkpoint : Path
        File of the checkpoint; one that lies elsewhere is not of this run.
    iteration : int
        Iteration of the checkpoint.
    """
    if checkpoint.resolve().parent != Path(run_dir, "checkpoints").resolve():
        return {}
    rows = read_validation(Path(run_dir) / "validation.csv")
    of_it = [row for row in rows if row.iteration == iteration]
    names = ("f1", "precision", "recall")
    return {name: getattr(of_it[-1], name) for name in names} if of_it else {}


def _validated_rows(file: Iterable[str]) -> list[Validated]:
    """Read the rows of a ``validation.csv``."""
    return [
        Validated(
            int(row["iteration"]),
            float(row["f1"]),
            float(row["precision"]),
            float(row["recall"]),
            int(row["matched"]),
            int(row["predicted"]),
            int(row["truth"]),
            row.get("settings") or "",
        )
        for row in csv.DictReader(file)
    ]
