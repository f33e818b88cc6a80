"""Nodes for gunpowder request graphs."""

from synpol.gp.add_polarity_target import AddPolarityTarget
from synpol.gp.add_sides_known import AddSidesKnown
from synpol.gp.ordered_pre_cache import OrderedPreCache, request_batch
from synpol.gp.reject_sampling import RejectSampling

__all__ = [
    "AddPolarityTarget",
    "AddSidesKnown",
    "OrderedPreCache",
    "RejectSampling",
    "request_batch",
]
