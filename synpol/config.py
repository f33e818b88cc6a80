"""What a recipe can say: typed models of the YAML.

Every key has its default, unit and meaning here and nowhere else: ``--help`` and docs/config.md
are made from these models. A key that is unknown is an error with its near misses, and
there is no key that nothing reads. Names that the EM-R50 recipe has (`size_thres`, `p`,
`exclusive`, `thres`, `thres_small`, `dilate_sz`, `reject_sampling`, `filters`) are kept.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from synpol.errors import InputError, nearest

Positive = Annotated[int, Field(gt=0)]
Triple = tuple[Positive, Positive, Positive]
NotNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([MGT])i?B", re.IGNORECASE)


class Section(BaseModel):
    """A part of the config: frozen, strict about its keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class TrainingVolume(Section):
    """An image with its labels."""

    raw: str = Field(description="path or URL of the image (z, y, x)")
    truth: str = Field(description="path or URL of the labels on the same voxels")
    labels: Literal["polarity", "union"] = Field(
        description="polarity: 2n-1 pre, 2n post; union: a mask, or an id a synapse, without sides"
    )


class SyntheticDataset(Section):
    """A synthetic volume to be made."""

    output: str = Field(description="folder that gets raw and truth")
    shape: Triple = Field(description="voxels, z, y, x")
    voxel_size: Triple = Field(default=(30, 16, 16), description="nm, z, y, x")
    seed: int = Field(default=0, ge=0, description="another seed is another piece of tissue")
    difficulty: Fraction = Field(
        default=0.0, description="0 clear cues .. 1 faint ones, more distractors and noise"
    )
    min_side_voxels: int = Field(
        default=0,
        ge=0,
        description="synapses of which the volume's border leaves fewer voxels on a side are not "
        "labelled",
    )


class ImportVolume(Section):
    """A volume to be converted to OME-Zarr."""

    source: str = Field(description="HDF5 file, TIFF file, or folder of PNG or TIFF sections")
    output: str = Field(description="path of the image to write, for instance data/a/raw")
    kind: Literal["image", "labels"] = Field(
        default="image", description="labels are never averaged"
    )
    key: str | None = Field(default=None, description="dataset inside an HDF5 file")
    voxel_size: tuple[float, float, float] = Field(
        description="of the source, in `unit`, z, y, x; after downsampling it has to be whole"
    )
    offset: tuple[float, float, float] = Field(
        default=(0, 0, 0), description="corner of the first voxel, in `unit`"
    )
    unit: Literal["nm", "angstrom", "pm"] = Field(
        default="nm", description="world unit; a finer one for sizes such as 4.6 nm"
    )
    sections: tuple[int, int] | None = Field(
        default=None, description="first section and one past the last; default: all"
    )
    downsample: Positive = Field(default=1, description="in-plane factor")


class EmR50(Section):
    """The EM-R50 data set."""

    archive: str = Field(
        default="http://rhoana.rc.fas.harvard.edu/dataset/jwr15_synapse.zip",
        description="URL or path of the ZIP file",
    )
    output: str = Field(default="data/em_r50", description="folder that gets all of it")
    volumes: list[str] = Field(
        default=["vol2", "vol3", "vol4"], min_length=1, description="folders in the archive"
    )
    image: str = Field(default="im_Yx2.h5", description="name of the image in each folder")
    labels: str = Field(default="syn_Yx2.h5", description="name of the labels in each folder")
    key: str = Field(default="main", description="dataset inside the HDF5 files")
    voxel_size: tuple[float, float, float] | None = Field(
        default=None, description="nm, z, y, x; to be confirmed, since the files do not say it"
    )


class Prepare(Section):
    """Data to be made or converted before anything else."""

    synthetic: list[SyntheticDataset] = Field(default=[], description="synthetic volumes")
    imports: list[ImportVolume] = Field(default=[], description="volumes to convert")
    em_r50: EmR50 = Field(default=EmR50(), description="data set")


class Data(Section):
    """Where training data lies and how intensities are read."""

    train: list[TrainingVolume] = Field(default=[], description="volumes that are trained on")
    validation: TrainingVolume | None = Field(
        default=None, description="volume on which the decoding threshold is chosen"
    )
    intensity_range: tuple[float, float] | None = Field(
        default=None,
        description="intensities that become 0 and 1; default: the whole range of uint8 or "
        "uint16, and 0..1 for floats, which have to lie in it",
    )

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.intensity_range and self.intensity_range[0] >= self.intensity_range[1]:
            raise ValueError(f"intensity_range is {self.intensity_range}; low, high is expected")
        return self


class Model(Section):
    """The residual symmetric U-Net."""

    filters: list[Positive] = Field(
        default=[18, 36, 48, 64, 80], min_length=2, description="channels per level"
    )
    norm: Literal["batch", "group", "instance", "none"] = Field(
        default="batch", description="normalisation layer"
    )
    activation: Literal["relu", "leaky_relu", "elu", "prelu"] = Field(
        default="relu", description="activation"
    )


class Loss(Section):
    """The recipe's weighted cross entropy and Dice, and side contrast beside them."""

    bce: float = Field(default=1.0, ge=0, description="weight of the (weighted) cross entropy")
    dice: float = Field(default=1.0, ge=0, description="weight of the Dice term")
    side_contrast: float = Field(
        default=1.0, ge=0, description="weight of side contrast; 0 gives the plain recipe"
    )
    non_overlap: float = Field(
        default=0.0,
        ge=0,
        description="weight of the mean of pre * post * union, which the older recipe has (4.0); "
        "not exclusive only",
    )
    class_weight: tuple[float, float, float] = Field(
        default=(1.0, 10.0, 10.0),
        description="class weights of WeightedCE (background, pre, post); exclusive only",
    )
    fraction_clip: tuple[float, float] = Field(
        default=(0.05, 0.95),
        description="the foreground fraction f is clipped to this before the foreground gets the "
        "weight max(f, 1-f) / min(f, 1-f), per channel; not exclusive only",
    )
    weight_max: float = Field(
        default=20.0, ge=1, description="upper bound of a voxel's weight; not exclusive only"
    )

    @model_validator(mode="after")
    def _clip_is_inside(self) -> Self:
        low, high = self.fraction_clip
        if not 0 < low <= high < 1:
            raise ValueError(f"fraction_clip is {low}, {high}; 0 < low <= high < 1 is expected")
        if self.bce + self.dice + self.side_contrast == 0:
            raise ValueError("bce, dice and side_contrast are all 0: nothing would be learned")
        return self


class RejectSampling(Section):
    """Patches with little foreground are drawn anew."""

    size_thres: int = Field(
        default=1000, ge=0, description="foreground voxels that a patch should have; 0 turns it off"
    )
    p: Fraction = Field(default=0.95, description="probability that a poorer patch is rejected")
    after_augmentation: bool = Field(
        default=False,
        description="count after deformation and misalignment, as the recipe does; by default "
        "before, so that no deformation is computed for a patch that is rejected",
    )


class Augment(Section):
    """Random changes of a training patch, in the order in which they are made."""

    elastic_p: Fraction = Field(default=0, description="probability of an elastic deformation")
    elastic_spacing: Triple = Field(
        default=(4, 32, 32), description="voxels between its control points, z, y, x"
    )
    elastic_sigma: tuple[NotNegative, NotNegative, NotNegative] = Field(
        default=(0, 2, 2), description="voxels by which control points move, standard deviation"
    )
    misalign_p: Fraction = Field(default=0, description="probability of a misalignment")
    misalign: Positive = Field(
        default=16, description="largest shift of misaligned sections along y and x, voxels"
    )
    misalign_slip: Fraction = Field(
        default=0.5, description="share of slips (one section moves); others: all from one on move"
    )
    flip: bool = Field(default=True, description="mirror each axis with probability 0.5")
    rotate90: bool = Field(default=True, description="swap y and x with probability 0.5")
    gamma_p: Fraction = Field(default=0, description="probability of another gamma")
    gamma: float = Field(
        default=1.5, ge=1, description="largest gamma; its inverse is the smallest"
    )
    section_contrast: float = Field(
        default=0.1, ge=0, lt=1, description="largest relative change of contrast, per section"
    )
    section_brightness: float = Field(
        default=0.1, ge=0, lt=1, description="largest shift of brightness (0..1), per section"
    )
    noise_p: Fraction = Field(default=0, description="probability of Gaussian noise")
    noise: float = Field(default=0.1, ge=0, description="its standard deviation (0..1)")
    blur_p: Fraction = Field(default=0, description="probability that sections are blurred")
    blur: Positive = Field(default=3, description="blurred sections of a patch at most")
    blur_length: Positive = Field(default=11, description="voxels over which they are blurred")
    missing_p: Fraction = Field(default=0, description="probability that sections are missing")
    missing: Positive = Field(default=3, description="missing sections of a patch at most")
    missing_whole: Fraction = Field(
        default=0.5, description="share of missing sections that are missing as a whole"
    )

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels beyond each end of a patch that geometric changes look at, nearly always."""
        shift = self.misalign if self.misalign_p else 0
        sigma = self.elastic_sigma if self.elastic_p else (0, 0, 0)
        z, y, x = (int(-(-4 * s // 1)) for s in sigma)
        return z, y + shift, x + shift


class Train(Section):
    """The training loop."""

    patch: Triple = Field(default=(18, 256, 256), description="patch in voxels, z, y, x")
    batch_size: Positive = Field(default=4, description="patches per iteration")
    iterations: Positive = Field(default=150000, description="iterations in all")
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="sgd is the older recipe's"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    lr: float = Field(default=1e-3, gt=0, description="learning rate at its highest")
    lr_min: float = Field(default=1e-5, ge=0, description="where its cosine ends")
    warmup: int = Field(default=0, ge=0, description="iterations of linear warm-up")
    weight_decay: float = Field(
        default=0.01, ge=0, description="of the optimizer; none on norms and biases"
    )
    gradient_clipping: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the averaged weights; 0 turns it off"
    )
    ema_warmup: int = Field(
        default=500, ge=0, description="iterations before which the average follows the weights"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="auto: bfloat16 where the processor has it; float16 is for GPUs only",
    )
    num_workers: int = Field(
        default=2, ge=0, description="processes that prepare batches; 0: in the training process"
    )
    cache_size: Positive = Field(default=8, description="batches kept ready")
    checkpoint_every: Positive = Field(default=1000, description="iterations between checkpoints")
    image_every: Positive = Field(default=500, description="iterations between TensorBoard images")


class Roi(Section):
    """A part of a volume, in the image's unit (nm)."""

    offset: tuple[int, int, int] = Field(description="first corner, z, y, x")
    shape: Triple = Field(description="extent, z, y, x")


class Predict(Section):
    """Blockwise prediction."""

    raw: str | None = Field(default=None, description="path or URL of the image to predict")
    output: str | None = Field(
        default=None, description="folder or URL that gets polarity, instances and the table"
    )
    checkpoint: str | None = Field(
        default=None, description="checkpoint file; default: the latest of run_dir"
    )
    window: Triple | None = Field(
        default=None, description="voxels (z, y, x) the network sees at once; default: train.patch"
    )
    overlap: float = Field(
        default=0.5, ge=0, lt=1, description="of neighbouring windows, as a fraction of a window"
    )
    blending: Literal["bump", "gaussian", "constant", "crop"] = Field(
        default="bump",
        description="weight of a voxel within its window; crop: only the middle of a window "
        "counts, half the overlap at each side is left out",
    )
    flip_axes: Literal["all"] | list[list[Literal["z", "y", "x"]]] = Field(
        default=[],
        description="flipped copies that are predicted too and averaged, such as [[y], [x], [y, "
        "x]]; all: every combination, 8 times the work",
    )
    compile: bool = Field(default=False, description="compile the network first (torch.compile)")
    roi: Roi | None = Field(default=None, description="part of the image to predict")
    mask: str | None = Field(
        default=None,
        description="path or URL of an array (z, y, x) of any voxel size: only where it is not 0 "
        "there is a prediction",
    )
    batch_size: Positive = Field(default=4, description="windows the network gets at once")
    block_shape: Triple = Field(
        default=(64, 256, 256), description="voxels (z, y, x) a worker predicts at once"
    )
    chunk_shape: Triple = Field(
        default=(32, 128, 128), description="chunk of the polarity array; divides block_shape"
    )


class Decode(Section):
    """From probabilities to instances."""

    thres: Fraction = Field(default=0.5, description="probability above which a voxel counts")
    thres_small: int = Field(
        default=128, ge=0, description="voxels that a side has to have at least"
    )
    dilate_sz: Positive = Field(
        default=5, description="side of the (1, d, d) box that joins the sides of a synapse"
    )
    sides: bool = Field(
        default=True, description="false: only the union counts, synapse n carries the number n"
    )
    semantic: bool = Field(default=False, description="1 on pre and 2 on post, no numbers")
    scale_factors: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        default=(1.0, 1.0, 1.0),
        description="resize the instances by these (z, y, x), nearest neighbour; other than 1 "
        "there is no synapse table",
    )
    block_shape: Triple = Field(
        default=(64, 256, 256), description="voxels (z, y, x) a worker decodes at once"
    )


class Workers(Section):
    """Who does the blocks."""

    executor: Literal["local", "slurm", "lsf", "pbs"] = Field(
        default="local", description="where workers run: on this machine, or as jobs of a cluster"
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
        default=240, le=43200, description="minutes a job may last; another one goes on after it"
    )
    queue: str | None = Field(default=None, description="queue or partition of the jobs")
    account: str | None = Field(default=None, description="account or project that pays")
    options: dict[str, bool | int | str] = Field(
        default={},
        description="more options of the scheduler, by their names without dashes; true: an option "
        "without a value. They replace what synpol asks for under the same name",
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
        description="seconds after which a block is given to another worker, and its own ended; "
        "on a cluster only, where a machine can be cut off",
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
        if self.executor == "local":
            unread = ("gpus", "memory", "queue", "account", "options", "host")
            given = [name for name in unread if getattr(self, name)]
            if given:
                raise ValueError(
                    f"{given[0]} is given, but executor is local, which does not read it; say "
                    "executor: slurm, lsf or pbs, or leave it out"
                )
        return self

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes; a GB is 2^30 here, as schedulers have it."""
        if self.memory is None:
            return None
        number, unit = _MEMORY.fullmatch(self.memory).groups()  # type: ignore[union-attr]
        return int(float(number) * 2 ** {"M": 20, "G": 30, "T": 40}[unit.upper()])

    def cores_of(self, count: int) -> int:
        """Cores of each of `count` workers."""
        if self.cpus is not None:
            return self.cpus
        return max(1, len(os.sched_getaffinity(0)) // count) if self.executor == "local" else 1


class Tune(Section):
    """The choice of the decoding threshold on the validation volume."""

    thres: list[Fraction] = Field(
        default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1, description="thresholds tried"
    )
    thres_small: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="minimum sizes tried; default: decode.thres_small alone"
    )
    iou: Fraction = Field(default=0.5, gt=0, description="IoU at which F1 is compared")


class Evaluate(Section):
    """Scores against the truth."""

    truth: str | None = Field(default=None, description="path or URL of the true labels")
    labels: Literal["polarity", "union"] = Field(
        default="polarity", description="what the truth marks; see data.train.labels"
    )
    iou: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        min_length=1,
        description="IoU thresholds at which two instances count as the same",
    )
    min_size: int = Field(
        default=0,
        ge=0,
        description="synapses with a side below this many voxels are left out, in the truth and in "
        "the prediction: what the volume's border cuts to slivers; labels: polarity only",
    )
    compare: list[str] = Field(
        default=[], description="scores.json files of other runs, shown beside in the report"
    )


class Config(Section):
    """A whole recipe."""

    run_dir: str = Field(description="folder of the run: checkpoints, logs, tuned settings")
    seed: int = Field(default=0, ge=0, description="of weights, patches and augmentation")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    exclusive: bool = Field(
        default=False, description="softmax over background, pre, post instead of three sigmoids"
    )
    prepare: Prepare = Field(default=Prepare(), description="data to be made or converted")
    data: Data = Field(default=Data(), description="training data")
    model: Model = Field(default=Model(), description="network")
    loss: Loss = Field(default=Loss(), description="loss")
    reject_sampling: RejectSampling = Field(
        default=RejectSampling(), description="rejection of empty patches"
    )
    augment: Augment = Field(default=Augment(), description="augmentation")
    train: Train = Field(default=Train(), description="training loop")
    predict: Predict = Field(default=Predict(), description="prediction")
    decode: Decode = Field(default=Decode(), description="decoding")
    workers: Workers = Field(default=Workers(), description="workers")
    tune: Tune = Field(default=Tune(), description="threshold")
    evaluate: Evaluate = Field(default=Evaluate(), description="scores")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        multiple = 2 ** (len(self.model.filters) - 1)
        for name, window in (("train.patch", self.train.patch), ("predict.window", self.window)):
            if min(window) < 1 or any(s % multiple for s in window[1:]):
                raise ValueError(
                    f"{name} is {tuple(window)}; y and x have to be multiples of {multiple} for "
                    f"the {len(self.model.filters)} levels of model.filters"
                )
        volumes = [*self.data.train, *([self.data.validation] if self.data.validation else [])]
        if self.exclusive and any(v.labels == "union" for v in volumes):
            raise ValueError(
                "exclusive needs labels with sides, but a volume says `labels: union`; "
                "use `exclusive: false`"
            )
        if self.workers.gpus and self.device == "cpu":
            raise ValueError("workers.gpus asks for GPUs, but device is cpu; change one of them")
        chunks = zip(self.predict.block_shape, self.predict.chunk_shape, strict=True)
        if any(c < 1 or b % c for b, c in chunks):
            raise ValueError(
                f"predict.block_shape {self.predict.block_shape} is not a multiple of "
                f"predict.chunk_shape {self.predict.chunk_shape}; two workers would write one chunk"
            )
        if min(self.decode.block_shape) < 1:
            raise ValueError(f"decode.block_shape is {self.decode.block_shape}; 1 or more each")
        return self

    @property
    def window(self) -> Triple:
        """Window of the prediction, voxels."""
        return self.predict.window or self.train.patch

    def need(self, key: str) -> str:
        """A string that this command cannot do without.

        Raises
        ------
        InputError
            The key is not set.
        """
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        if value is None:
            raise InputError(f"{key} is not set in the config, and this command needs it")
        return str(value)


def load_config(sources: Sequence[str]) -> Config:
    """Read a config: YAML files, later ones over earlier ones, then ``section.key=value``.

    Parameters
    ----------
    sources : sequence of str
        At least one file; values are YAML, so ``train.patch=[12,96,96]`` works.

    Raises
    ------
    InputError
        A missing file, bad YAML, an unknown key (with the near misses), a bad value.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in sources:
        if "=" in source and not os.path.exists(source):  # Path.exists raises on long names
            key, _, text = source.partition("=")
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise InputError(f"{source}: the value is not YAML: {error}") from None
            layer: Any = value
            for part in reversed(key.split(".")):
                layer = {part: layer}
        else:
            layer = _read_yaml(source)
        _merge(merged, layer, source, "", origin)
    _check_keys(Config, merged, "", origin)
    try:
        return Config.model_validate(merged)
    except pydantic.ValidationError as error:
        raise InputError(_explain(error, origin)) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: str) -> dict[str, Any]:
    file = Path(path)
    if not os.path.isfile(path):
        here = file.parent if file.parent.is_dir() else Path(".")
        known = [str(p) for p in here.glob("*.y*ml")]
        raise InputError(
            f"there is no config file {path}{nearest(path, known)}"
            if path.endswith((".yaml", ".yml"))
            else f"{path!r} is neither a YAML file nor section.key=value"
        )
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold `key: value` lines")
    return found


def _merge(
    into: dict[str, Any], layer: dict[str, Any], source: str, prefix: str, origin: dict[str, str]
) -> None:
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, f"{path}.", origin)
        else:
            into[key] = _copied(value)
            origin[path] = source


def _copied(value: Any) -> Any:
    """A copy in which nothing is shared: YAML anchors make one object of two places."""
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _sections(annotation: Any) -> type[Section] | None:
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _check_keys(
    model: type[Section], values: dict[str, Any], prefix: str, origin: dict[str, str]
) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in model.model_fields:
            known = {f"{prefix}{name}" for name in model.model_fields}
            elsewhere = [p for p, *_ in describe(Config) if p.rsplit(".", 1)[-1] == str(key)]
            hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(path, known)
            raise InputError(f"{_where(path, origin)}: unknown key {path!r}{hint}")
        inner = _sections(model.model_fields[key].annotation)
        for each in value if isinstance(value, list) else [value]:
            if inner and isinstance(each, dict):
                _check_keys(inner, each, f"{path}.", origin)


def _where(path: str, origin: dict[str, str]) -> str:
    while path:
        if path in origin:
            return origin[path]
        path = path.rpartition(".")[0]
    return "config"


def _explain(error: pydantic.ValidationError, origin: dict[str, str]) -> str:
    lines = []
    for one in error.errors():
        path = ".".join(str(p) for p in one["loc"])
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "missing":
            message = "this key is required"
        elif path and one["type"] != "value_error":
            message = f"{message} (it is {one['input']!r})"
        where = _where(path, origin) if path else ", ".join(dict.fromkeys(origin.values()))
        lines.append(f"{where}: {path + ': ' if path else ''}{message}")
    return "\n".join(lines)


def describe(model: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key with its type, default and meaning.

    Yields
    ------
    (key, type, default, meaning)
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _sections(field.annotation)
        listed = typing.get_origin(field.annotation) is list
        if inner and not listed and field.default is not None:
            yield from describe(inner, f"{path}.")
            continue
        default = "required" if field.is_required() else _plain(field.default)
        yield path, _type_name(field.annotation), default, field.description or ""
        if inner:
            yield from describe(inner, f"{path}[]." if listed else f"{path}.")


def _plain(value: Any) -> str:
    return (
        yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
        .removesuffix("...\n")
        .strip()
    )


def _type_name(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0])
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(a) for a in args if a is not type(None))
    if origin is list:
        return f"list of {_type_name(args[0])}"
    if origin is tuple:
        return f"{len(args)} {_type_name(args[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return {"str": "text", "float": "number", "int": "whole number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", str(annotation)), str(annotation)
    )
