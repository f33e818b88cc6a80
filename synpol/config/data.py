"""Sections about data: volumes to make, to convert, and to train on."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from synpol.config.links import LinkSides
from synpol.config.section import Fraction, IntensityRange, Positive, PositiveFloat, Section, Triple
from synpol.config.source import ImageSource, Source
from synpol.polarity import LabelKind

#: keys of a training volume that are left out of hashes where nothing was said
_LATER = {"intensity_range": None, "weight": None, "context": False}


class TrainingVolume(Section):
    """An image with its labels."""

    raw: Source = Field(description="image (z, y, x)")
    truth: Source = Field(
        description="labels on the same voxels; if they cover a part, that part is used"
    )
    labels: LabelKind = Field(
        description="marks in the labels: polarity (2n-1 on the pre side, 2n on the post side), or "
        "union (a mask, or one id for each synapse, without sides)"
    )
    intensity_range: IntensityRange | None = Field(
        default=None,
        description="intensities of this image that become 0 and 1; default: data.intensity_range",
    )
    weight: PositiveFloat | None = Field(
        default=None,
        description="share of the training patches that come from this volume, relative to the "
        "weights of the others; for all volumes or for none; default: the number of places where "
        "a patch fits",
    )
    context: bool = Field(
        default=False,
        description="whether patches reach beyond labels that cover a part of the image, by half a "
        "patch; what lies there is unknown. By default the image is cut to its labels",
    )

    @property
    def has_unknown(self) -> bool:
        """Whether voxels, or sides of synapses, may be unknown."""
        told = self.truth
        declared = isinstance(told, ImageSource) and (
            told.unknown or told.known or told.sides_unknown
        )
        return self.context or bool(declared)

    @model_serializer(mode="wrap")
    def _what_was_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # these keys are newer than the hashes of others
        told: dict[str, Any] = dump(self)
        return {k: v for k, v in told.items() if k not in _LATER or v != _LATER[k]}


class SyntheticDataset(Section):
    """A synthetic volume to be made."""

    output: str = Field(description="folder for the images raw, truth and neurons")
    shape: Triple = Field(description="shape in voxels, z, y, x")
    voxel_size: Triple = Field(default=(30, 16, 16), description="voxel size in nm, z, y, x")
    seed: int = Field(default=0, ge=0, description="number of the piece of tissue")
    difficulty: Fraction = Field(
        default=0.0,
        description="from 0 (clear cues) to 1 (faint cues, more distractors, more noise)",
    )
    min_side_voxels: int = Field(
        default=0,
        ge=0,
        description="fewest voxels of each side; a synapse that the volume's border cuts to less "
        "is not labelled, and a link whose post side it cuts to less is not listed",
    )
    polyadic: bool = Field(
        default=False,
        description="whether synapses are those of insects, with 1 to 6 thin post profiles "
        "opposite a T-bar; true_links.parquet in the folder then lists their links",
    )

    @model_serializer(mode="wrap")
    def _what_was_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # this key is newer than the hashes of others
        told: dict[str, Any] = dump(self)
        return {k: v for k, v in told.items() if k != "polyadic" or v}


class ImportVolume(Section):
    """A volume to be converted to OME-Zarr."""

    source: str = Field(
        description="file, folder or URL in a format that is imported, such as HDF5, TIFF, or a "
        "folder of PNG sections; `prepare.py --help` lists them"
    )
    output: str = Field(description="path or URL of the image to write, for instance data/a/raw")
    kind: Literal["image", "labels", "polarity"] = Field(
        default="image",
        description="kind of the volume; labels are never averaged; polarity is a prediction "
        "(3, z, y, x) of another program",
    )
    key: str | None = Field(
        default=None,
        description="name of the volume where a source holds several: dataset of an HDF5 file (* "
        "for all) or N5 container, number of an image in a TIFF file, pattern of names in a folder "
        "of sections, layer of a WEBKNOSSOS data set",
    )
    voxel_size: tuple[float, float, float] | None = Field(
        default=None,
        description="voxel size of the source in `unit`, z, y, x; default: what the file says",
    )
    offset: tuple[float, float, float] = Field(
        default=(0, 0, 0),
        description="corner of the first voxel in `unit`, z, y, x; where it is left out, what the "
        "file says counts",
    )
    unit: Literal["nm", "angstrom", "pm"] = Field(
        default="nm",
        description="unit of sizes and places, and of numbers in a file that names none; a finer "
        "one for sizes such as 4.6 nm",
    )
    axes: str | None = Field(
        default=None,
        description="letters of the stored axes, slowest first, for instance zcyx; default: what "
        "the file says, else zyx",
    )
    channel: int | None = Field(
        default=None, ge=0, description="number of the channel to import, from 0 on"
    )
    time: int | None = Field(
        default=None, ge=0, description="number of the time to import, from 0 on"
    )
    sections: tuple[int, int] | None = Field(
        default=None, description="first section and one past the last; default: all"
    )
    downsample: Positive = Field(default=1, description="factor that shrinks sections in plane")
    fill_missing: bool = Field(
        default=False, description="whether zeros stand for missing sections, instead of an error"
    )
    anonymous: bool = Field(
        default=False,
        description="whether a URL is read without credentials; for Zarr and precomputed",
    )
    ignore_metadata: bool = Field(
        default=False,
        description="whether the config alone counts, where a file says a wrong voxel size or "
        "place",
    )


class EmR50(Section):
    """The EM-R50 data set."""

    archive: str = Field(
        default="http://rhoana.rc.fas.harvard.edu/dataset/jwr15_synapse.zip",
        description="URL or path of the ZIP file",
    )
    output: str = Field(
        default="data/em_r50", description="folder for the download and the converted volumes"
    )
    volumes: list[str] = Field(
        default=["vol2", "vol3", "vol4"], min_length=1, description="folders in the archive"
    )
    image: str = Field(default="im_Yx2.h5", description="name of the image in each folder")
    labels: str = Field(default="syn_Yx2.h5", description="name of the labels in each folder")
    key: str = Field(default="main", description="dataset inside the HDF5 files")
    voxel_size: tuple[float, float, float] | None = Field(
        default=None,
        description="voxel size in nm, z, y, x; please confirm it, since the files do not say it",
    )


class Prepare(Section):
    """Data to make or to convert before anything else."""

    synthetic: list[SyntheticDataset] = Field(default=[], description="synthetic volumes")
    imports: list[ImportVolume] = Field(default=[], description="volumes to convert")
    links: list[LinkSides] = Field(
        default=[], description="labels of sides to make from links between two points"
    )
    em_r50: EmR50 = Field(default=EmR50(), description="EM-R50 data set")


class Data(Section):
    """Volumes to train on, and how their intensities are read."""

    train: list[TrainingVolume] = Field(default=[], description="training volumes")
    validation: TrainingVolume | None = Field(
        default=None,
        description="volume for validation during training and for the choice of the threshold",
    )
    intensity_range: IntensityRange | None = Field(
        default=None,
        description="intensities that become 0 and 1; default: the whole range of uint8 or "
        "uint16, and 0..1 for floats, which have to lie in it",
    )
    mixed_voxel_sizes: bool = Field(
        default=False,
        description="whether training volumes may have voxel sizes that differ by more than 5 %; "
        "the network then sees all of them voxel by voxel",
    )

    @property
    def has_unknown(self) -> bool:
        """Whether voxels of a training volume, or sides of its synapses, may be unknown."""
        return any(volume.has_unknown for volume in self.train)

    @model_validator(mode="after")
    def _weights_of_all_or_none(self) -> Self:
        if self.validation is not None and self.validation.weight is not None:
            raise ValueError("validation has a weight, which is for training volumes; leave it out")
        if self.validation is not None and self.validation.context:
            raise ValueError(
                "validation has `context`, which is about training patches; leave it out: the part "
                "with labels is predicted and scored"
            )
        without = [n for n, one in enumerate(self.train) if one.weight is None]
        if without and len(without) < len(self.train):
            raise ValueError(
                f"train.{without[0]} has no weight, but other volumes have one; give each volume "
                "of data.train a weight, or none"
            )
        return self
