"""Run stages block by block on volumes of any size: what a stage of one's own needs.

The names below are imported when they are first used, so that workers start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "ArrayStage",
    "BlockGrid",
    "Driver",
    "ImageStage",
    "Index",
    "Stage",
    "VoxelStage",
    "run_image_stage",
    "run_stage",
]

_HOME = {
    "ArrayStage": "stage",
    "BlockGrid": "grid",
    "Driver": "driver",
    "ImageStage": "image_stage",
    "Index": "records",
    "Stage": "stage",
    "VoxelStage": "stage",
    "run_image_stage": "run",
    "run_stage": "run",
}

if TYPE_CHECKING:
    from synpol.blockwise.driver import Driver
    from synpol.blockwise.grid import BlockGrid
    from synpol.blockwise.image_stage import ImageStage
    from synpol.blockwise.records import Index
    from synpol.blockwise.run import run_image_stage, run_stage
    from synpol.blockwise.stage import ArrayStage, Stage, VoxelStage


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
