"""Write verdicts for other programs and read them back: Parquet, and lines in neuroglancer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.errors import InputError
from synpol.files import whole_file, write_json
from synpol.review.verdicts import (
    COLUMNS,
    KINDS,
    NUMBERS,
    REALS,
    Point,
    Verdict,
    row_of,
    verdict_of,
)
from synpol.synapses.line_annotations import read_lines

#: layer of neuroglancer that holds verdicts
LAYER = "verdicts"
#: verdict of a line that says none
DRAWN = "missed"
_COLOURS = {"right": "#4caf50", "flipped": "#ff9800", "not_synapse": "#f44336", "missed": "#ffeb3b"}
_ID = "synpol verdict "


def schema() -> pa.Schema:
    """Return the columns of a table of verdicts."""
    kinds = {**dict.fromkeys(NUMBERS, pa.int64()), **dict.fromkeys(REALS, pa.float64())}
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS])


def write_parquet(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write all verdicts into a Parquet file, a row each; undos too."""
    columns = list(zip(*map(row_of, verdicts), strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema(), strict=True)]
    with whole_file(path) as temporary:
        pq.write_table(pa.table(arrays, schema=schema()), temporary, compression="zstd")


def read_parquet(path: Path) -> list[Verdict]:
    """Read the verdicts of `write_parquet`.

    Raises
    ------
    InputError
        There is no such file, it is damaged, has other columns, or rows that are no verdicts.
    """
    if not path.is_file():
        raise InputError(
            f"there is no file {path}; one that --export FILE.parquet wrote is expected"
        )
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet: {str(error).partition(chr(10))[0]:.200}; an "
            "exported table of verdicts is expected"
        ) from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path} is not a table of verdicts: it has no column {missing[0]}; an "
            "exported table of verdicts is expected"
        )
    try:
        rows = table.select(list(COLUMNS)).cast(schema()).to_pydict()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path} is not a table of verdicts: {error!s:.200}") from None
    found = []
    for number, row in enumerate(zip(*rows.values(), strict=True), start=1):
        what = f"{path}, row {number}"
        absent = [n for n, v in zip(COLUMNS, row, strict=True) if v is None and n in _NEEDED]
        if absent:
            raise InputError(f"{what}: {absent[0]} is empty; remove the row")
        found.append(verdict_of(row).checked(what))
    return found


_NEEDED = set(COLUMNS) - {"score", "stratum", "stratum_size", "undoes"}


def write_lines(path: Path, verdicts: Sequence[Verdict], voxel_size: Sequence[float]) -> None:
    """Write verdicts as lines of a neuroglancer state, which can be pasted into any neuroglancer.

    Parameters
    ----------
    path : Path
        JSON file to write.
    verdicts : sequence of Verdict
        Verdicts that stand; boxes that were searched are left out, as they are no lines.
    voxel_size : 3 floats
        Size of a voxel, z, y, x; nm.
    """
    size = np.array(voxel_size, float)
    lines = [
        {
            "type": "line",
            "id": one.uuid,
            "pointA": (np.array(one.pre) / size)[::-1].tolist(),
            "pointB": (np.array(one.post) / size)[::-1].tolist(),
            "description": _text_of(one),
            "props": [_COLOURS.get(one.verdict, "#9e9e9e")],
        }
        for one in verdicts
        if one.verdict != "seen"
    ]
    layer = {
        "type": "annotation",
        "name": LAYER,
        "source": "local://annotations",
        "tab": "annotations",
        "annotationProperties": [{"id": "colour", "type": "rgb", "default": "#9e9e9e"}],
        "annotations": lines,
        "shader": "void main() { setColor(prop_colour()); setLineWidth(3.0); }",
    }
    dimensions = {axis: [nm * 1e-9, "m"] for axis, nm in zip("xyz", size[::-1], strict=True)}
    write_json(path, {"dimensions": dimensions, "layers": [layer]})


def _text_of(verdict: Verdict) -> str:
    """Describe a verdict for people, and below for `read_state`."""
    about = {
        name: value
        for name, value in zip(COLUMNS, row_of(verdict), strict=True)
        if name[:-2] not in ("pre", "post") and value not in (None, "")
    }
    head = f"{verdict.verdict} ({verdict.reviewer})"
    return f"{head}\n{verdict.note}\n{_ID}{json.dumps(about)}" if about else head


def read_state(path: Path, reviewer: str) -> list[Verdict]:
    """Read verdicts from a saved state of neuroglancer.

    The lines of `write_lines` are the verdicts that they were. A line that a person drew, from pre
    to post, is a missed synapse, unless its description is one of the verdicts.

    Parameters
    ----------
    path : Path
        File with a state of neuroglancer, with one layer of lines, or one with the name `LAYER`.
    reviewer : str
        Who drew the lines that name nobody.

    Raises
    ------
    InputError
        No such state, annotations that are no lines, or descriptions that are no verdicts.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; a saved state of neuroglancer is expected")
    layer = _layer(path)
    ends = read_lines(str(path), {}, layer.get("name")).ends
    found = []
    for number, one in enumerate(layer["annotations"]):
        what = f"{path}, line {number + 1}"
        text = str(one.get("description") or "").strip()
        pre, post = (_point(side[number]) for side in ends)
        about = text.partition(_ID)[2]
        if about:
            try:
                told = json.loads(about)
                verdict = Verdict(**told, pre=pre, post=post)
            except (ValueError, TypeError):
                raise InputError(
                    f"{what}: the last line of its description is damaged; remove it, so that the "
                    "line counts as drawn by a person"
                ) from None
        else:
            word = text.lower().replace(" ", "_").replace("not_a_synapse", "not_synapse") or DRAWN
            if word not in KINDS or word in ("undo", "seen"):
                raise InputError(
                    f"{what}: its description is {text!r:.60}; nothing (a missed synapse) or one "
                    f"of {', '.join(k for k in KINDS if k not in ('undo', 'seen'))} is expected"
                )
            content = json.dumps([word, pre, post, str(one.get("id", ""))])
            name = hashlib.sha256(content.encode()).hexdigest()[:32]  # the same at each import
            verdict = Verdict(verdict=word, reviewer=reviewer, uuid=name, pre=pre, post=post)
        found.append(verdict.checked(what))
    return found


def _point(place: np.ndarray) -> Point:
    z, y, x = place.tolist()
    return z, y, x


def _layer(path: Path) -> dict[str, Any]:
    """Find the layer of lines in a state."""
    try:
        state = json.loads(path.read_text(encoding="utf-8-sig"))
        layers = [one for one in state.get("layers", [state]) if one.get("annotations")]
    except (OSError, ValueError, AttributeError, TypeError):
        raise InputError(
            f"{path} is no state of neuroglancer (JSON); save one with lines, or name a Parquet "
            "file of verdicts"
        ) from None
    named = [one for one in layers if one.get("name") == LAYER] or layers
    if len(named) != 1:
        raise InputError(
            f"{path} has {len(named)} layers with annotations; one is expected, or one with the "
            f"name {LAYER}"
        )
    layer: dict[str, Any] = named[0]
    return layer
