"""The list of augmentations, in the order in which a patch goes through them.

The recipe (``pipelines/train.py``) and the picture (``pipelines/augmentations.py``) both read it.
A new augmentation takes two steps: its node in a file of its own, ``gp/x_augment.py``, and an entry
in the list at the end of this file, with its options and a function that makes the node from them::

    class Rings(Section):
        p: Fraction = Field(default=0.5, description="probability of rings")
        strength: float = Field(default=0.2, description="contrast of the rings (0..1)")

    def _rings(options: Rings, image: gp.ArrayKey) -> gp.BatchFilter:
        return RingsAugment(image, options.strength, options.p)

    Augmentation("rings", Rings, _rings)

A config asks for it with ``augment.extra: {rings: {p: 0.3}}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gunpowder as gp

from synpol.config import Augment, Section
from synpol.config.reading import read_section
from synpol.errors import InputError, nearest
from synpol.gp.flip_augment import FlipAugment
from synpol.gp.gamma_augment import GammaAugment
from synpol.gp.misalign_augment import MisalignAugment
from synpol.gp.missing_sections_augment import MissingSectionsAugment
from synpol.gp.motion_blur_augment import MotionBlurAugment
from synpol.gp.nothing import Nothing

#: voxels along z, y, x
type Voxels = tuple[int, int, int]


def _no_context(options: Section) -> Voxels:
    return 0, 0, 0


@dataclass(frozen=True)
class Augmentation[Options: Section]:
    """An entry of the list.

    Attributes
    ----------
    name : str
        Name in ``augment.extra``, and title in the picture.
    options : type of Section
        Options of the augmentation: `Augment` itself for those that have keys there, else the
        section under ``augment.extra.NAME``.
    node : callable
        Function that makes the node from the options and the key of the image.
    p : str or None
        Option that holds the probability that a patch is changed. Where it is 0 there is no node.
        None for a node that a chain always has.
    deforms : bool
        Whether the node moves image and labels, at some cost. Such nodes stand next to the
        rejection of empty patches, which may be done before or after them.
    context : callable
        Voxels beyond each end of a patch that the node looks at, nearly always, given its options.
    rows : mapping of title to options
        Rows of the picture, each with the options in which it differs from the config.
    """

    name: str
    options: type[Options]
    node: Callable[[Options, gp.ArrayKey], gp.BatchFilter]
    p: str | None = "p"
    deforms: bool = False
    context: Callable[[Options], Voxels] = _no_context
    rows: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def given(self, augment: Augment) -> Options | None:
        """Return the options that a config gives; None where it does not name the augmentation."""
        if isinstance(augment, self.options):
            return augment
        if self.name not in augment.extra:
            return None
        path = f"augment.extra.{self.name}"
        return read_section(self.options, augment.extra[self.name], path)


def named(augment: Augment) -> Iterator[tuple[Augmentation[Any], Any]]:
    """List the augmentations that a config names, with the options that it gives them.

    Raises
    ------
    InputError
        ``augment.extra`` has an unknown name, or an option that cannot be used.
    """
    extra = [e.name for e in AUGMENTATIONS if e.options is not Augment]
    for name in augment.extra:
        if name not in extra:
            raise InputError(
                f"augment.extra.{name}: there is no such augmentation{nearest(name, extra)}; it "
                "has to be in the list of synpol/gp/augmentations.py"
            )
    for entry in AUGMENTATIONS:
        options = entry.given(augment)
        if options is not None:
            yield entry, options


def wanted(augment: Augment) -> Iterator[tuple[Augmentation[Any], Any]]:
    """List the augmentations whose probability is above 0, with their options."""
    for entry, options in named(augment):
        if entry.p is None or getattr(options, entry.p):
            yield entry, options


def augment_chain(augment: Augment, image: gp.ArrayKey, *, deforms: bool) -> gp.Pipeline:
    """Build the chain of the augmentations that a config wants.

    Parameters
    ----------
    augment : Augment
    image : gp.ArrayKey
        Image to change.
    deforms : bool
        Whether to build the chain of those that deform a patch, or of the others.

    Returns
    -------
    gp.Pipeline
        To be added to another one; `Nothing` where no augmentation is wanted.

    Raises
    ------
    InputError
        ``augment.extra`` cannot be used.
    """
    chain: gp.Pipeline = Nothing()
    for entry, options in wanted(augment):
        if entry.deforms == deforms:
            chain = chain + entry.node(options, image)
    return chain


def context_of(augment: Augment) -> Voxels:
    """Return the voxels beyond each end of a patch that augmentation looks at, nearly always.

    Raises
    ------
    InputError
        ``augment.extra`` cannot be used.
    """
    each = [entry.context(options) for entry, options in wanted(augment)]
    z, y, x = (sum(along) for along in zip((0, 0, 0), *each, strict=True))
    return z, y, x


def picture_rows(
    augment: Augment, image: gp.ArrayKey
) -> Iterator[tuple[str, gp.BatchFilter, Voxels]]:
    """List the rows of the picture: every augmentation, done always, as strong as in the config.

    Yields
    ------
    (title, node, context)

    Raises
    ------
    InputError
        ``augment.extra`` cannot be used.
    """
    for entry, options in named(augment):
        always = {entry.p: 1.0} if entry.p else {}
        for title, differs in (entry.rows or {entry.name: {}}).items():
            drawn = options.model_copy(update={**always, **differs})
            yield title, entry.node(drawn, image), entry.context(drawn)


# ---------------------------------------------------------------- the list


def _elastic(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return gp.ElasticAugment(
        options.elastic_spacing,
        options.elastic_sigma,
        (0, 0),
        subsample=2,  # every second voxel of the field, interpolated between: a fifth of the time
        p=options.elastic_p,
    )


def _elastic_context(options: Augment) -> Voxels:
    z, y, x = (int(-(-4 * sigma // 1)) for sigma in options.elastic_sigma)
    return z, y, x


def _misalign(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return MisalignAugment(options.misalign, options.misalign_p, options.misalign_slip)


def _misalign_context(options: Augment) -> Voxels:
    return 0, options.misalign, options.misalign


def _flip(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return FlipAugment(options.flip, options.rotate90)


def _gamma(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return GammaAugment(image, options.gamma, options.gamma_p)


def _intensity(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return gp.IntensityAugment(
        image,
        1 - options.section_contrast,
        1 + options.section_contrast,
        -options.section_brightness,
        options.section_brightness,
        slab=(1, -1, -1),  # each section by itself
        clip=False,
    )


def _noise(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return gp.NoiseAugment(image, var=options.noise**2, clip=False, p=options.noise_p)


def _blur(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return MotionBlurAugment(image, options.blur, options.blur_p, options.blur_length)


def _missing(options: Augment, image: gp.ArrayKey) -> gp.BatchFilter:
    return MissingSectionsAugment(image, options.missing, options.missing_p, options.missing_whole)


_TURNED = {"flips and turns": {"flip": True, "rotate90": True}}
_MISALIGNED = {"slip": {"misalign_slip": 1.0}, "translation": {"misalign_slip": 0.0}}
_MISSED = {"missing, whole": {"missing_whole": 1.0}, "missing, in part": {"missing_whole": 0.0}}

#: every augmentation, in order
AUGMENTATIONS: list[Augmentation[Any]] = [
    Augmentation("elastic", Augment, _elastic, "elastic_p", True, _elastic_context),
    Augmentation(
        "misalign", Augment, _misalign, "misalign_p", True, _misalign_context, rows=_MISALIGNED
    ),
    Augmentation("flip", Augment, _flip, p=None, rows=_TURNED),
    Augmentation("gamma", Augment, _gamma, "gamma_p"),
    Augmentation("contrast and brightness", Augment, _intensity, p=None),
    Augmentation("noise", Augment, _noise, "noise_p"),
    Augmentation("motion blur", Augment, _blur, "blur_p"),
    Augmentation("missing", Augment, _missing, "missing_p", rows=_MISSED),
]
