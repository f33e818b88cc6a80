"""Nodes for gunpowder request graphs."""

from synpol.gp.add_polarity_target import AddPolarityTarget
from synpol.gp.add_sides_known import AddSidesKnown
from synpol.gp.damage_sections import MissingSections, MotionBlur
from synpol.gp.gamma import GammaAugment
from synpol.gp.misalign import Misalign
from synpol.gp.ordered_pre_cache import OrderedPreCache, request_batch
from synpol.gp.reject_sampling import RejectSampling
from synpol.gp.stack_patches import StackPatches

__all__ = [
    "AddPolarityTarget",
    "AddSidesKnown",
    "GammaAugment",
    "Misalign",
    "MissingSections",
    "MotionBlur",
    "OrderedPreCache",
    "RejectSampling",
    "StackPatches",
    "request_batch",
]
