"""All sections of a config, and what has to hold between them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from synpol.config.data import Data, Prepare
from synpol.config.export import Export
from synpol.config.inference import Connect, Decode, Evaluate, Predict, Tune, View, Workers
from synpol.config.review import Review
from synpol.config.section import Section, Triple
from synpol.config.source import ImageSource
from synpol.config.training import Augment, Loss, Model, RejectSampling, Train
from synpol.config.windows import with_cheap_windows, with_recipe_windows
from synpol.errors import InputError


class Config(Section):
    """A whole config."""

    run_dir: str = Field(description="folder of the run: checkpoints, logs, tuned settings")
    seed: int = Field(
        default=0, ge=0, description="random seed of weights, patches and augmentation"
    )
    device: str = Field(
        default="auto", description="device of the network: auto, cpu, cuda, cuda:1, ..."
    )
    exclusive: bool = Field(
        default=False, description="softmax over background, pre, post instead of three sigmoids"
    )
    prepare: Prepare = Field(default=Prepare(), description="data to make or to convert")
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
    connect: Connect = Field(default=Connect(), description="connectivity")
    view: View = Field(default=View(), description="scene")
    review: Review = Field(default=Review(), description="verdicts of reviewers")
    export: Export = Field(default=Export(), description="exported network")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        multiple = self.model.multiple
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
        kind = self.model.norm, self.model.activation
        if self.predict.int8 and kind != ("batch", "relu"):
            raise ValueError(
                "predict.int8 is for networks with model.norm: batch and model.activation: relu; "
                f"this one has {kind[0]} and {kind[1]}. Leave out predict.int8"
            )
        if self.workers.gpus and self.device == "cpu":
            raise ValueError("workers.gpus asks for GPUs, but device is cpu; change one of them")
        if self.train.patience and not self.train.validate_every:
            raise ValueError(
                "train.patience stops a run that validation finds no better, but "
                "train.validate_every is 0; say how often to validate"
            )
        if "cremi-partners" in self.evaluate.protocols and self.evaluate.segmentation is None:
            raise ValueError(
                "evaluate.protocols has cremi-partners, which needs the neurons: name them in "
                "evaluate.segmentation"
            )
        if self.evaluate.protocols and self.evaluate.labels == "union":
            raise ValueError(
                "evaluate.protocols are about sides, but evaluate.labels is union; leave them out"
            )
        if min(self.decode.block_shape) < 1:
            raise ValueError(f"decode.block_shape is {self.decode.block_shape}; 1 or more each")
        return self

    @property
    def window(self) -> Triple:
        """Window in voxels, z, y, x: the one that is given, else a patch of the training."""
        return self.predict.window or self.train.patch

    def laid_out(self, recipe: bool = False) -> Self:
        """Fill in the windows of the prediction, where the config leaves them out.

        Parameters
        ----------
        recipe : bool
            Whether they are those of the EM-R50 recipe though the config says nothing of them.
        """
        predict, patch = self.predict, self.train.patch
        if recipe or predict.names_windows:
            predict = with_recipe_windows(predict, patch)
        else:
            predict = with_cheap_windows(predict, patch, self.model.multiple)
        return self.model_copy(update={"predict": predict})

    def need(self, key: str) -> str:
        """Return the text of a key that this command cannot do without.

        Raises
        ------
        InputError
            The key is not set.
        """
        return str(self._set(key))

    def need_image(self, key: str) -> str | ImageSource:
        """An image that this command cannot do without: its path, or a mapping.

        Raises
        ------
        InputError
            The key is not set.
        """
        found: str | ImageSource = self._set(key)
        return found

    def _set(self, key: str) -> Any:
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        if value is None:
            raise InputError(f"{key} is not set in the config, and this command needs it")
        return value
