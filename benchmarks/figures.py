"""What every benchmark does with its figures at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def tell(figures: Mapping[str, float], path: Path | None, digits: str = ".3f") -> None:
    """Print figures by name, and write them as a flat JSON object where a path is given."""
    print()
    for name, figure in figures.items():
        print(f"{name} {figure:{digits}}")
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n")
