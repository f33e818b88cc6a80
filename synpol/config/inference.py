"""Sections about prediction, decoding, workers, scores and the scene."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from synpol.config.links import EvaluateLinks
from synpol.config.section import (
    Fraction,
    IntensityRange,
    NotNegative,
    Overlap,
    Positive,
    PositiveFloat,
    Section,
    Triple,
)
from synpol.config.source import Source
from synpol.errors import InputError
from synpol.polarity import LabelKind

Number = int | float
Extent = Positive | PositiveFloat
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([MGT])i?B", re.IGNORECASE)


#: characters that end a line or that terminals and shells obey; a tab is none
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
#: characters that a shell obeys within quotation marks
_CODE = re.compile(r"[$`\"'\\]")


class Roi(Section):
    """Part of a volume, in nm, or in the unit that the metadata of its image name."""

    offset: tuple[Number, Number, Number] = Field(description="first corner, z, y, x")
    shape: tuple[Extent, Extent, Extent] = Field(description="extent, z, y, x")


class Predict(Section):
    """Prediction of the polarity, block by block."""

    raw: Source | None = Field(default=None, description="image to predict")
    output: str | None = Field(
        default=None, description="folder or URL for polarity, instances and the table"
    )
    checkpoint: str | None = Field(
        default=None,
        description="checkpoint, exported network or package; default: the best checkpoint of "
        "run_dir where train.validate_every is set, else its latest",
    )
    window: Triple | None = Field(
        default=None,
        description="window of the network in voxels, z, y, x; default: train.patch where overlap "
        "or blending is given, else windows that cost little, made from train.patch",
    )
    overlap: Overlap | None = Field(
        default=None,
        description="overlap of neighbouring windows, as a fraction of a window, or three "
        "fractions z, y, x; default: 0.5 where window or blending is given",
    )
    blending: Literal["bump", "gaussian", "constant", "crop"] | None = Field(
        default=None,
        description="weight of a voxel by its place in the window; crop: only the middle of a "
        "window counts, and half of the overlap is left out at each side; default: bump where "
        "window or overlap is given",
    )
    flip_axes: Literal["all"] | list[list[Literal["z", "y", "x"]]] = Field(
        default=[],
        description="flipped copies to predict too and to average, such as [[y], [x], [y, x]]; "
        "all: every combination, for 8 times the work",
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        default="auto",
        description="program that computes the network; openvino is the faster one on an x86-64 "
        "CPU and needs the extra openvino; auto: openvino there, where it is installed, else torch",
    )
    int8: bool = Field(
        default=False,
        description="whether the network computes in 8-bit integers, nearly twice as fast as in "
        "bfloat16; with OpenVINO, on a CPU with VNNI instructions, for model.norm: batch and "
        "model.activation: relu. Compare the scores before you rely on it",
    )
    compile: bool = Field(
        default=False, description="whether torch.compile compiles the network first"
    )
    roi: Roi | None = Field(default=None, description="part of the image to predict")
    mask: Source | None = Field(
        default=None,
        description="array (z, y, x) of any voxel size; only places where it is not 0 are "
        "predicted",
    )
    intensity_range: IntensityRange | None = Field(
        default=None,
        description="intensities of the image that become 0 and 1, where it is not stored as the "
        "training images are; default: data.intensity_range",
    )
    resample: bool = Field(
        default=False,
        description="whether an image whose voxels have another size than those that the network "
        "learned from is resampled to them; results lie on the voxels of the image all the same",
    )
    batch_size: Positive = Field(
        default=4,
        description="windows that the network gets at once; without window, overlap and blending "
        "counted in patches, of which a window may hold several",
    )
    block_shape: Triple = Field(
        default=(64, 256, 256),
        description="block that a worker predicts at once, in voxels, z, y, x",
    )
    chunk_shape: Triple = Field(
        default=(32, 128, 128),
        description="chunk of the polarity array in voxels, z, y, x; has to divide block_shape; "
        "where it is not given, it is made to fit",
    )

    @property
    def names_windows(self) -> bool:
        """Whether the config says anything of the windows, so that no default lays them out."""
        return (self.window, self.overlap, self.blending) != (None, None, None)

    def check_chunks(self) -> None:
        """Refuse a chunk that was given and does not divide the block.

        Raises
        ------
        InputError
            Two workers would write one chunk.
        """
        chunks = zip(self.block_shape, self.chunk_shape, strict=True)
        if "chunk_shape" in self.model_fields_set and any(b % c for b, c in chunks):
            raise InputError(
                f"predict.block_shape {self.block_shape} is not a multiple of predict.chunk_shape "
                f"{self.chunk_shape}: two workers would write one chunk. Choose chunks that divide "
                "the block, or leave out predict.chunk_shape"
            )


class Decode(Section):
    """From probabilities to instances."""

    thres: Fraction = Field(default=0.5, description="probability above which a voxel counts")
    thres_small: int = Field(
        default=128, ge=0, description="fewest voxels of a side; a smaller one is dropped"
    )
    dilate_sz: Positive | Triple = Field(
        default=5,
        description="side d of the (1, d, d) box that joins the sides of a synapse, or three sides "
        "z, y, x",
    )
    sides: bool = Field(
        default=True,
        description="whether sides are told apart; false: only the union channel counts, and "
        "synapse n carries the number n",
    )
    semantic: bool = Field(
        default=False, description="whether to write 1 on pre and 2 on post in place of numbers"
    )
    scale_factors: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        default=(1.0, 1.0, 1.0),
        description="factors (z, y, x) by which the instances are resized, nearest neighbour; "
        "with others than 1 there is no synapse table",
    )
    block_shape: Triple = Field(
        default=(64, 256, 256),
        description="block that a worker decodes at once, in voxels, z, y, x",
    )


class Workers(Section):
    """Workers that do the blocks: how many, where, and with what."""

    executor: str = Field(
        default="local",
        description="scheduler of the workers: local is this machine, others submit jobs to a "
        "cluster",
    )
    num_workers: Positive = Field(default=2, description="workers that decode")
    num_predict_workers: Positive = Field(
        default=1, description="workers that predict; on a CPU one uses every core already"
    )
    cpus: Positive | None = Field(
        default=None,
        description="cores of a worker; default: this machine's cores shared out, 1 on a cluster",
    )
    gpus: int = Field(
        default=0, ge=0, le=1, description="GPUs of a job that predicts, on a cluster"
    )
    memory: str | None = Field(
        default=None, description="memory of a job, such as 8GB; default: the cluster's"
    )
    walltime: Positive = Field(
        default=240,
        le=43200,
        description="minutes that a job may last; the next job goes on where it ends",
    )
    queue: str | None = Field(default=None, description="queue or partition of the jobs")
    account: str | None = Field(default=None, description="account or project that pays")
    options: dict[str, bool | int | str] = Field(
        default={},
        description="more options of the scheduler, by their names without dashes; true is for an "
        "option without a value. They replace what synpol asks for under the same name",
    )
    setup: list[str] = Field(
        default=[], description="shell lines that a job runs first, such as `module load cuda`"
    )
    host: str | None = Field(
        default=None,
        description="address at which the jobs reach this machine; default: found by daisy",
    )
    block_timeout: Positive = Field(
        default=3600,
        description="seconds after which a block goes to another worker, and its first worker is "
        "ended; on a cluster only, where a machine can be cut off",
    )
    work_dir: str | None = Field(
        default=None,
        description="folder for records, the lock and logs, shared by all workers; default: "
        "<predict.output>.work, to be given where the output is remote",
    )

    @model_validator(mode="after")
    def _can_be_submitted(self) -> Self:
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ValueError(f"memory is {self.memory!r}; a number with MB, GB or TB is expected")
        if self.memory_bytes is not None and self.memory_bytes < 2**20:
            raise ValueError(f"memory is {self.memory!r}; at least 1 MB is expected")
        for name in self.options:
            if not re.fullmatch(r"[A-Za-z][\w-]*", name):
                raise ValueError(f"options: {name!r} is no option's name; without dashes, please")
        self._check_characters()
        if self.executor == "local":
            unread = ("gpus", "memory", "queue", "account", "options", "host")
            given = [name for name in unread if getattr(self, name)]
            if given:
                raise ValueError(
                    f"{given[0]} is given, but executor is local, which does not read it; say "
                    "executor: slurm (or another cluster's), or leave it out"
                )
        return self

    def _check_characters(self) -> None:
        """Refuse names that a job's script would take for commands; shell goes into `setup`."""
        names: dict[str, object] = {key: getattr(self, key) for key in ("queue", "account", "host")}
        names |= {f"options.{key}": value for key, value in self.options.items()}
        for key, value in names.items():
            if isinstance(value, str) and (_CONTROL.search(value) or "\t" in value):
                raise ValueError(f"{key} is {value!r:.80}; one line of text is expected")
            if isinstance(value, str) and ("'" in value or '"' in value):
                raise ValueError(f"{key} is {value!r:.80}; a text without quotes is expected")
            if key in ("queue", "account", "host") and _CODE.search(str(value or "")):
                raise ValueError(f"{key} is {value!r:.80}; a name without $, ` and \\ is expected")
        for line in self.setup:
            if _CONTROL.search(line):
                raise ValueError(
                    f"setup holds {line!r:.80}; one line of shell is expected: write each line as "
                    "an item of its own"
                )

    @property
    def memory_bytes(self) -> int | None:
        """Memory of a job in bytes; a GB is 2^30, as schedulers count."""
        if self.memory is None:
            return None
        number, unit = _MEMORY.fullmatch(self.memory).groups()  # type: ignore[union-attr]
        return int(float(number) * 2 ** {"M": 20, "G": 30, "T": 40}[unit.upper()])

    def cores_of(self, count: int) -> int:
        """Return the number of cores of each of `count` workers."""
        if self.cpus is not None:
            return self.cpus
        return max(1, len(os.sched_getaffinity(0)) // count) if self.executor == "local" else 1


class Tune(Section):
    """Choice of the decoding threshold on the validation volume."""

    thres: list[Fraction] = Field(
        default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        min_length=1,
        description="thresholds to try; an exclusive model has none",
    )
    thres_small: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="smallest sizes to try; default: decode.thres_small alone"
    )
    dilate_sz: list[Positive | Triple] | None = Field(
        default=None, description="boxes to try; default: decode.dilate_sz alone"
    )
    iou: Fraction = Field(default=0.5, gt=0, description="IoU at which F1 is compared")


class Evaluate(Section):
    """Scores against the truth."""

    truth: Source | None = Field(default=None, description="true labels")
    labels: LabelKind = Field(
        default="polarity", description="marks in the truth; see data.train.labels"
    )
    iou: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        min_length=1,
        description="IoU thresholds at which two instances count as the same",
    )
    min_size: int = Field(
        default=0,
        ge=0,
        description="fewest voxels of each side; smaller synapses, mostly slivers at the volume's "
        "border, are left out of truth and prediction; for labels: polarity only",
    )
    protocols: list[Literal["lin2020", "cremi-partners"]] = Field(
        default=[],
        description="protocols of others to score by as well, for volumes that fit in memory; for "
        "labels: polarity only",
    )
    lin2020_margin: int = Field(
        default=14, ge=0, description="sections that lin2020 leaves out at each end"
    )
    segmentation: Source | None = Field(
        default=None, description="neurons (z, y, x), for cremi-partners"
    )
    links: EvaluateLinks = Field(
        default=EvaluateLinks(), description="scores of links, by pipelines/evaluate_links.py"
    )
    compare: list[str] = Field(
        default=[], description="scores.json files of other runs, to be shown beside in the report"
    )


class Connect(Section):
    """Neurons that synapses join."""

    segmentation: Source | None = Field(
        default=None,
        description="neurons (z, y, x), 0 between them; voxels may be whole multiples of the "
        "image's; a part of the volume is enough",
    )
    partners: Literal["all", "largest"] = Field(
        default="largest",
        description="partners of a synapse. largest: one link, between the neurons with most "
        "voxels of each side; all: a link for each post neuron, and for each pre neuron",
    )
    min_voxels: Positive = Field(
        default=1, description="fewest voxels of a side in a neuron that make it a partner, for all"
    )
    min_fraction: Fraction = Field(
        default=0.05,
        description="smallest share of the voxels of a side that makes a neuron a partner, for all",
    )
    max_distance: float = Field(
        default=0.0,
        ge=0,
        le=250,
        description="distance within which voxels in no neuron (0 in the segmentation) count to "
        "the nearest one, nm; 0: they do not",
    )
    duplicates: NotNegative = Field(
        default=0.0,
        description="links of the same two neurons whose post ends lie within this many nm count "
        "once in the graph; 0: all count",
    )
    min_score: Fraction = Field(
        default=0.0, description="smallest score of a link that counts in the graph"
    )


class View(Section):
    """Scene in neuroglancer."""

    port: int = Field(
        default=8642,
        ge=0,
        le=65535,
        description="port of this machine at which the scene is served, and to which the report's "
        "links lead; 0: any free one",
    )
    live_port: int = Field(
        default=8644,
        ge=0,
        le=65535,
        description="port of this machine for the layers that `view.py --live` computes; 0: any "
        "free one",
    )
