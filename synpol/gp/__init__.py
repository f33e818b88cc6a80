"""gunpowder nodes, of which the recipe builds its training batches."""

from synpol.gp.add_polarity_target import AddPolarityTarget
from synpol.gp.add_sides_known import AddSidesKnown
from synpol.gp.flip_augment import FlipAugment
from synpol.gp.gamma_augment import GammaAugment
from synpol.gp.misalign_augment import MisalignAugment
from synpol.gp.missing_sections_augment import MissingSectionsAugment
from synpol.gp.motion_blur_augment import MotionBlurAugment
from synpol.gp.nothing import Nothing
from synpol.gp.ordered_pre_cache import OrderedPreCache, request_batch
from synpol.gp.reject_sampling import RejectSampling
from synpol.gp.stack_patches import StackPatches

__all__ = [
    "AddPolarityTarget",
    "AddSidesKnown",
    "FlipAugment",
    "GammaAugment",
    "MisalignAugment",
    "MissingSectionsAugment",
    "MotionBlurAugment",
    "Nothing",
    "OrderedPreCache",
    "RejectSampling",
    "StackPatches",
    "request_batch",
]
