"""synpol: synaptic polarity at volume scale.

The functions that people use from Python are here; they are imported when first touched, because
torch and gunpowder take seconds to import and decoding needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "decode_blockwise",
    "match_instances",
    "merge_graph",
    "polarity2instance",
    "polarity_to_seg",
    "seg_to_polarity",
]

_HOME = {
    "InputError": "synpol.errors",
    "decode_blockwise": "synpol.decoding.job",
    "match_instances": "synpol.evaluation.matching",
    "merge_graph": "synpol.decoding.merge",
    "polarity2instance": "synpol.decoding.reference",
    "polarity_to_seg": "synpol.polarity",
    "seg_to_polarity": "synpol.polarity",
}

if TYPE_CHECKING:
    from synpol.decoding.job import decode_blockwise
    from synpol.decoding.merge import merge_graph
    from synpol.decoding.reference import polarity2instance
    from synpol.errors import InputError
    from synpol.evaluation.matching import match_instances
    from synpol.polarity import polarity_to_seg, seg_to_polarity


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'synpol' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
