"""The network and how it learns."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synpol.config.section import Fraction, NotNegative, Positive, Section, Triple


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


#: loss terms that have a key of their own in `Loss`
_OWN_TERMS = ("bce", "dice", "side_contrast", "non_overlap")


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
    terms: dict[str, NotNegative] = Field(
        default={},
        description="weights of further loss terms, by their names in synpol/model/losses.py",
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
        if self.bce + self.dice + self.side_contrast + sum(self.terms.values()) == 0:
            raise ValueError("bce, dice and side_contrast are all 0: nothing would be learned")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every loss term by its name, those of `terms` last."""
        own = {name: getattr(self, name) for name in _OWN_TERMS}
        return own | self.terms


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
    extra: dict[str, dict[str, Any]] = Field(
        default={},
        description="more augmentations, by their names in synpol/gp/augmentations.py, each with "
        "its options",
    )


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
    validate_every: int = Field(
        default=0,
        ge=0,
        description="iterations between validations (data.validation is predicted, decoded and "
        "scored, and the best checkpoint is kept for prediction); 0: never",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="validations without a better F1 after which training stops; 0: never",
    )
    image_every: Positive = Field(default=500, description="iterations between TensorBoard images")
