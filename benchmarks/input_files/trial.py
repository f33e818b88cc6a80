"""Read a file in every way that a user can, and compare with the volume that it means."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import gunpowder as gp
import numpy as np
import torch

from synpol.config import Config, ImageSource, ImportVolume, Source, TrainingVolume
from synpol.datasets.import_volume import import_volume
from synpol.errors import InputError
from synpol.formats import format_of
from synpol.gp import request_batch
from synpol.images.image import Image, open_image
from synpol.images.writing import create_image
from synpol.model import build_model
from synpol.prediction.job import PredictJob
from synpol.training.volumes import in_one_unit, open_volume

from .file import IDS, RAW, SIZE, File

ROOT = Path(__file__).resolve().parents[2]
#: block of the volume that is predicted, and shapes in voxels
INDEX, BLOCK, CHUNK, PATCH = (1, 0, 1), (8, 16, 16), (8, 8, 8), (4, 16, 16)


@dataclass(frozen=True)
class Outcome:
    """How a file was read.

    Attributes
    ----------
    file : File
        The file.
    way : {"import", "in place"}
        How it was opened.
    result : {"right", "refused", "wrong"}
        Whether it was read as it was meant; "refused" is right for a file that means no volume.
    note : str
        What was wrong, or the refusal.
    """

    file: File
    way: str
    result: str
    note: str


class Trial:
    """Try files one after the other.

    Parameters
    ----------
    folder : Path
        Empty folder for what is shared: networks that were never trained, and plain Zarr images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Any, Any] = {}

    def network(self, config: Config) -> Path:
        """Return a checkpoint of a network that was never trained, for images of one range."""
        path = self.folder / f"network_{config.data.intensity_range}.pt"
        if not path.exists():
            torch.manual_seed(0)
            state = {"model": build_model(config.model).state_dict(), "iteration": 0}
            torch.save(state | {"config": config.model_dump(mode="json")}, path)
        return path

    def config(self, brightest: float) -> Config:
        """Return the config of training and prediction, for images of 0 .. `brightest`."""
        return Config.model_validate(
            {
                "run_dir": str(self.folder / "run"),
                "device": "cpu",
                "model": {"filters": [2, 3]},
                "data": {"intensity_range": [0, brightest]},
                "reject_sampling": {"size_thres": 1, "p": 0.5},
                "train": {"patch": PATCH, "batch_size": 1, "num_workers": 0},
                "predict": {"block_shape": BLOCK, "chunk_shape": CHUNK},
            }
        )

    def outcome(self, file: File, way: str, folder: Path) -> Outcome:
        """Write a file into an empty folder and read it in one way."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = file.write(folder)
            try:
                source = self._opened(file, way, path, folder)
                different = self._difference(file, open_image(source), source, folder)
            except InputError as error:
                result = "wrong" if file.values is not None else "refused"
                return Outcome(file, way, result, str(error))
            except Exception as error:  # a user would see a traceback
                return Outcome(file, way, "wrong", f"{type(error).__name__}: {error}")
        return Outcome(file, way, "wrong" if different else "right", different)

    def _opened(self, file: File, way: str, path: Path, folder: Path) -> Source:
        """Return what a config names to read a file, after the import where there is one."""
        if way == "import":
            made = str(folder / "made")
            import_volume(ImportVolume(source=str(path), output=made, **file.keys))
            return made
        scheme = "precomputed://" if format_of(str(path)).name == "precomputed" else ""
        place = f"{scheme}{path / file.keys.get('key', '')}"
        keys = {k: v for k, v in file.keys.items() if k in ImageSource.model_fields}
        return ImageSource(path=place, **keys) if keys else place

    def _difference(self, file: File, image: Image, source: Source, folder: Path) -> str:
        """Say how an image differs from what the writer meant."""
        meant = file.values
        if meant is None:
            return "it was not refused"
        values = np.asarray(image.array[tuple(slice(0, int(n)) for n in image.array.shape)])
        if values.shape != meant.shape or not np.array_equal(values, meant):
            return "other values"
        if not np.allclose(image.voxel_size_nm, SIZE, rtol=1e-6):
            return f"voxels of {image.voxel_size_nm} nm"
        if not np.allclose(image.offset_nm, file.offset, atol=1e-3):
            return f"offset {image.offset_nm} nm"
        is_image = file.keys.get("kind") != "labels"
        if not _same(self._patch(file, source), self._shared(self._patch, file)):
            return "another training patch"
        if is_image and not _same(
            self._block(file, source, folder), self._shared(self._block, file)
        ):
            return "another predicted block"
        return ""

    def _shared(self, of: Any, file: File) -> list[np.ndarray]:
        """Return what the plain Zarr image of the same values gives; computed once."""
        plain = self._plain(file.values, file.offset)
        key = (of.__name__, plain)
        if key not in self._known:
            folder = Path(f"{plain}.use")
            self._known[key] = of(file, plain, *([folder] if of == self._block else []))
        return self._known[key]

    def _plain(self, values: np.ndarray | None, offset: tuple[float, float, float]) -> str:
        """Write values as synpol's own Zarr, unless that was done; returns the path."""
        assert values is not None
        key = (values.tobytes(), values.dtype.str, offset)
        if key not in self._known:
            name = f"plain_{len(self._known)}"
            about: Any = {"voxel_size": SIZE, "offset": offset, "unit": "nm"}
            image = create_image(
                self.folder,
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunk_shape=CHUNK,
                **about,
            )
            image.array[:] = values
            self._known[key] = str(self.folder / name)
        return self._known[key]

    @cached_property
    def _train(self) -> ModuleType:
        """The module pipelines/train.py."""
        spec = importlib.util.spec_from_file_location("train", ROOT / "pipelines" / "train.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _patch(self, file: File, source: Source) -> list[np.ndarray]:
        """Draw a training patch as `train.py` does, with a file as image or as labels."""
        assert file.values is not None
        is_image = file.keys.get("kind") != "labels"
        other = self._plain(IDS if is_image else RAW, file.offset)
        raw, truth = (source, other) if is_image else (other, source)
        volume = TrainingVolume.model_validate({"raw": raw, "truth": truth, "labels": "union"})
        config = self.config(float(file.values.max()) if is_image else 255)
        volumes = in_one_unit([open_volume(volume, config.data.intensity_range)])
        train = self._train
        graph = train.request_graph(config, volumes, 0, range(1))
        with gp.build(graph):
            batch = request_batch(graph, train.batch_request(config, volumes[0]))
        return [batch[key].data for key in (train.RAW, train.TARGET, train.WEIGHTS)]

    def _block(self, file: File, source: Source, folder: Path) -> list[np.ndarray]:
        """Predict a block as a worker of `predict_blockwise.py` does."""
        assert file.values is not None
        config = self.config(float(file.values.max()))
        job = PredictJob.of(config, source, str(folder / "predicted"), self.network(config))
        stage = job.stage(job.create(False).path)
        opened = stage.open()
        found = stage.compute(INDEX, opened, stage.read(INDEX, opened))
        return [] if found.polarity is None else [found.polarity]


def _same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether arrays are equal and say something."""
    alike = [np.array_equal(a, b) for a, b in zip(found, expected, strict=True)]
    return bool(alike) and all(alike)
