"""Keys of a config, as typed models.

Every key has its default, unit and meaning here and nowhere else: ``--help`` and docs/config.md
are made from these models. An unknown key is an error that names the near misses, and every key
is read somewhere. Names that the EM-R50 recipe has are kept: `size_thres`, `p`, `exclusive`,
`thres`, `thres_small`, `dilate_sz`, `reject_sampling`, `filters`.
"""

from synpol.config.data import Data, EmR50, ImportVolume, Prepare, SyntheticDataset, TrainingVolume
from synpol.config.inference import Connect, Decode, Evaluate, Predict, Roi, Tune, View, Workers
from synpol.config.links import EvaluateLinks, LinkSides, LinkTable
from synpol.config.reading import describe, load_config
from synpol.config.recipe import Config
from synpol.config.review import Review
from synpol.config.section import Section
from synpol.config.source import ImageSource, Source
from synpol.config.training import Augment, Loss, Model, RejectSampling, Train

__all__ = [
    "Augment",
    "Config",
    "Connect",
    "Data",
    "Decode",
    "EmR50",
    "Evaluate",
    "EvaluateLinks",
    "ImageSource",
    "ImportVolume",
    "LinkSides",
    "LinkTable",
    "Loss",
    "Model",
    "Predict",
    "Prepare",
    "RejectSampling",
    "Review",
    "Roi",
    "Section",
    "Source",
    "SyntheticDataset",
    "Train",
    "TrainingVolume",
    "Tune",
    "View",
    "Workers",
    "describe",
    "load_config",
]
