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
    "decode_blockwise": "synpol.blockwise.decode",
    "match_instances": "synpol.matching",
    "merge_graph": "synpol.blockwise.merge",
    "polarity2instance": "synpol.decoding",
    "polarity_to_seg": "synpol.polarity",
    "seg_to_polarity": "synpol.polarity",
}

if TYPE_CHECKING:
    from synpol.blockwise.decode import decode_blockwise
    from synpol.blockwise.merge import merge_graph
    from synpol.decoding import polarity2instance
    from synpol.errors import InputError
    from synpol.matching import match_instances
    from synpol.polarity import polarity_to_seg, seg_to_polarity


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'synpol' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
