"""Sections about the network and how it learns."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synpol.config.section import Fraction, NotNegative, Positive, Section, Triple


class Model(Section):
    """The network, a residual symmetric U-Net."""

    filters: list[Positive] = Field(
        default=[18, 36, 48, 64, 80], min_length=2, description="channels of each level"
    )
    norm: Literal["batch", "group", "instance", "none"] = Field(
        default="batch", description="normalisation layer"
    )
    activation: Literal["relu", "leaky_relu", "elu", "prelu"] = Field(
        default="relu", description="activation function"
    )
    residual: bool = Field(
        default=True,
        description="whether blocks have a residual pair of convolutions between their first and "
        "their last one, as in the recipe; without it a block has two of four, and a "
        "step takes about six tenths of the time",
    )

    @property
    def multiple(self) -> int:
        """Whole number that has to divide y and x of a patch and of a window."""
        return int(2 ** (len(self.filters) - 1))


#: loss terms that have a key of their own in `Loss`
_OWN_TERMS = ("bce", "dice", "side_contrast", "non_overlap")


class Loss(Section):
    """The weighted sum of loss terms: the recipe's cross entropy and Dice, and side contrast."""

    bce: float = Field(default=1.0, ge=0, description="weight of the cross entropy")
    dice: float = Field(default=1.0, ge=0, description="weight of Dice")
    side_contrast: float = Field(
        default=1.0, ge=0, description="weight of side contrast; 0 gives the plain recipe"
    )
    non_overlap: float = Field(
        default=0.0,
        ge=0,
        description="weight of the mean of pre * post * union, 4.0 in the older recipe; only for "
        "networks that are not exclusive",
    )
    deep_supervision: float = Field(
        default=0.0,
        ge=0,
        description="weight of the same loss on the next coarser level of the network, halved for "
        "each further level, side contrast excepted; 0: the finest level alone",
    )
    terms: dict[str, NotNegative] = Field(
        default={},
        description="weights of further loss terms by their names, see synpol/model/losses.py",
    )
    class_weight: tuple[float, float, float] = Field(
        default=(1.0, 10.0, 10.0),
        description="weights of background, pre and post in the cross entropy; only for exclusive "
        "networks",
    )
    fraction_clip: tuple[float, float] = Field(
        default=(0.05, 0.95),
        description="range to which f, the fraction of foreground in a channel of a patch, is "
        "clipped; the rarer of foreground and background then gets the weight max(f, 1-f) / "
        "min(f, 1-f); only for networks that are not exclusive",
    )
    weight_max: float = Field(
        default=20.0,
        ge=1,
        description="upper bound of a voxel's weight; only for networks that are not exclusive",
    )

    @model_validator(mode="after")
    def _clip_is_inside(self) -> Self:
        low, high = self.fraction_clip
        if not 0 < low <= high < 1:
            raise ValueError(f"fraction_clip is {low}, {high}; 0 < low <= high < 1 is expected")
        if self.bce + self.dice + self.side_contrast + sum(self.terms.values()) == 0:
            raise ValueError("bce, dice and side_contrast are all 0: nothing would be learned")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weights of all loss terms by their names, those of `terms` last."""
        own = {name: getattr(self, name) for name in _OWN_TERMS}
        return own | self.terms


class RejectSampling(Section):
    """Rejection of patches with too little foreground."""

    size_thres: int = Field(
        default=1000,
        ge=0,
        description="foreground voxels that a patch should have; 0: no rejection",
    )
    p: Fraction = Field(default=0.95, description="probability that a patch with fewer is rejected")
    after_augmentation: bool = Field(
        default=False,
        description="whether voxels are counted after deformation and misalignment, as in the "
        "recipe; by default before, so that no deformation is computed for a rejected patch",
    )


class Augment(Section):
    """Random changes of a training patch, in the order in which they are made."""

    elastic_p: Fraction = Field(default=0, description="probability of an elastic deformation")
    elastic_spacing: Triple = Field(
        default=(4, 32, 32),
        description="distances of the control points of the deformation, voxels, z, y, x",
    )
    elastic_sigma: tuple[NotNegative, NotNegative, NotNegative] = Field(
        default=(0, 2, 2),
        description="standard deviation of the shifts of control points, voxels, z, y, x",
    )
    misalign_p: Fraction = Field(default=0, description="probability of a misalignment")
    misalign: Positive = Field(
        default=16, description="largest shift of misaligned sections along y and x, voxels"
    )
    misalign_slip: Fraction = Field(
        default=0.5,
        description="share of slips, in which one section moves; otherwise all sections from one "
        "on move",
    )
    flip: bool = Field(
        default=True, description="whether each axis is mirrored, with probability 0.5"
    )
    rotate90: bool = Field(
        default=True, description="whether y and x are swapped, with probability 0.5"
    )
    gamma_p: Fraction = Field(default=0, description="probability of a random gamma")
    gamma: float = Field(
        default=1.5, ge=1, description="largest gamma; the smallest is its inverse"
    )
    section_contrast: float = Field(
        default=0.1, ge=0, lt=1, description="largest relative change of contrast, of each section"
    )
    section_brightness: float = Field(
        default=0.1, ge=0, lt=1, description="largest shift of brightness (0..1), of each section"
    )
    noise_p: Fraction = Field(default=0, description="probability of Gaussian noise")
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the noise (0..1)")
    blur_p: Fraction = Field(default=0, description="probability of blurred sections")
    blur: Positive = Field(default=3, description="largest number of blurred sections")
    blur_length: Positive = Field(default=11, description="length of the blur, voxels")
    missing_p: Fraction = Field(default=0, description="probability of missing sections")
    missing: Positive = Field(default=3, description="largest number of missing sections")
    missing_whole: Fraction = Field(
        default=0.5, description="share of missing sections that are missing wholly, not in part"
    )
    extra: dict[str, dict[str, Any]] = Field(
        default={},
        description="options of further augmentations by their names, see "
        "synpol/gp/augmentations.py",
    )


class Train(Section):
    """The training loop."""

    patch: Triple = Field(default=(18, 256, 256), description="size of a patch, voxels, z, y, x")
    batch_size: Positive = Field(default=4, description="patches per iteration")
    iterations: Positive = Field(default=150000, description="number of iterations")
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="optimizer; the older recipe has sgd"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    lr: float = Field(default=1e-3, gt=0, description="highest learning rate")
    lr_min: float = Field(
        default=1e-5, ge=0, description="last learning rate, at the end of a cosine"
    )
    warmup: int = Field(default=0, ge=0, description="iterations of linear warm-up")
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of the optimizer; norms and biases have none"
    )
    gradient_clipping: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the averaged weights; 0: no averaging"
    )
    ema_warmup: int = Field(
        default=500, ge=0, description="number of iterations before averaging begins"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="type that convolutions compute in; auto: bfloat16 if the device has it, else "
        "float32; float16 is for GPUs only",
    )
    num_workers: int = Field(
        default=2, ge=0, description="processes that prepare batches; 0: the training process does"
    )
    cache_size: Positive = Field(default=8, description="number of batches kept ready")
    checkpoint_every: Positive = Field(default=1000, description="iterations between checkpoints")
    validate_every: int = Field(
        default=0,
        ge=0,
        description="iterations between validations, which predict, decode and score "
        "data.validation and keep the best checkpoint for prediction; 0: never",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="validations without a better F1 after which training stops; 0: never",
    )
    image_every: Positive = Field(default=500, description="iterations between TensorBoard images")
    initial: str | None = Field(
        default=None,
        description="checkpoint, exported network or package whose weights training begins with; "
        "default: random weights",
    )
