"""Read links that a person drew as lines in neuroglancer, or that a program wrote as such lines.

Two forms are read: a saved state of neuroglancer (JSON, or the address with the state in it), whose
layers hold annotations, and a folder or URL of precomputed annotations, sharded or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.world import power_of

#: most cells of an index by place that are asked for
MOST_CELLS = 10**7
#: requests to a store that wait at once
_AT_ONCE = 1000
#: names of the neurons of a line, tried in this order
_NEURONS = {"pre_id": ("pre_id", "pre"), "post_id": ("post_id", "post")}
_SIZES = {"float32": 4, "uint32": 4, "int32": 4, "uint16": 2, "int16": 2}
_SIZES |= {"uint8": 1, "int8": 1, "rgb": 3, "rgba": 4}
_ANOTHER = "export the annotations anew, or name a table of links (CSV or Parquet)"


@dataclass(frozen=True)
class Lines:
    """Lines, a row each.

    Attributes
    ----------
    ends : (2, n, 3) float64
        Places of point A and of point B, z, y, x; nm.
    neurons : mapping
        Neurons by ``pre_id`` and ``post_id``, (n,) int64, where the lines name them; 0: unknown.
    score : (n,) float64 or None
        How sure each line is.
    number : (n,) int64 or None
        Numbers of the lines.
    """

    ends: np.ndarray
    neurons: Mapping[str, np.ndarray]
    score: np.ndarray | None = None
    number: np.ndarray | None = None


def holds_lines(path: str) -> bool:
    """Tell whether a path is a state of neuroglancer, or a folder or URL of annotations."""
    if is_url(path) or Path(path).is_dir():
        return True
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begin.startswith(b"{") or (begin.startswith(b"http") and b"#!" in begin)


def read_lines(path: str, columns: Mapping[str, str], layer: str | None) -> Lines:
    """Read all lines.

    Parameters
    ----------
    path : str
        File with a state of neuroglancer, or folder or URL of precomputed annotations.
    columns : mapping
        Names of the relations ``pre_id`` and ``post_id``, and of the property ``score``.
    layer : str, optional
        Layer of the state; needed where several hold annotations.

    Raises
    ------
    InputError
        Annotations that are no lines, that lie in no world, or that cannot be read.
    """
    for name in columns:
        if name not in (*_NEURONS, "score"):
            raise InputError(
                f"columns of {path}: lines of neuroglancer have no {name!r}; pre_id and post_id "
                "(names of relations) and score (name of a property) can be given"
            )
    in_state = not is_url(path) and Path(path).is_file()
    if layer is not None and not in_state:
        raise InputError(
            f"{path} holds annotations without layers, but the layer {layer!r} is asked for; "
            "leave the key layer out"
        )
    try:
        lines = _of_state(path, columns, layer) if in_state else _of_folder(path, columns)
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is not as neuroglancer writes annotations: {said:.200}; {_ANOTHER}"
        ) from None
    if not np.isfinite(lines.ends).all():
        row = int(np.flatnonzero(~np.isfinite(lines.ends).all(axis=(0, 2)))[0])
        raise InputError(f"{path}: line {row + 1} has an end that is not finite; {_ANOTHER}")
    return lines


def _of_state(path: str, columns: Mapping[str, str], wanted: str | None) -> Lines:
    text = Path(path).read_text(encoding="utf-8-sig").strip()
    if text.startswith("http"):
        import neuroglancer  # only addresses need it

        state = neuroglancer.parse_url(text).to_json()
    else:
        state = json.loads(text)
    whole = state if "layers" in state else {"layers": [state]}  # a layer that was saved alone
    layers = {
        str(layer.get("name", number)): layer
        for number, layer in enumerate(whole["layers"])
        if "annotations" in layer or layer.get("type") == "annotation"
    }
    if wanted is None and len(layers) != 1:
        raise InputError(
            f"{path} has {len(layers)} layers with annotations ({', '.join(layers)}); one is "
            "expected: name it (layer: NAME)"
        )
    if wanted is not None and wanted not in layers:
        raise InputError(
            f"{path} has no layer {wanted!r} with annotations; it has {', '.join(layers) or 'none'}"
        )
    name = next(iter(layers)) if wanted is None else wanted
    layer = layers[name]
    if not layer.get("annotations"):
        raise InputError(
            f"{path}: the layer {name!r} holds no annotations in itself; where its source is a "
            "folder or URL of annotations, name that as path"
        )
    annotations = layer["annotations"]
    for number, one in enumerate(annotations):
        if one.get("type") != "line":
            raise InputError(
                f"{path}: annotation {number + 1} of the layer {name!r} (id {one.get('id')!r}) is "
                f"a {one.get('type')!s:.40}, and links are read from lines only; remove it, or "
                "move it to another layer"
            )
    ends = np.array(
        [[one["pointA"] for one in annotations], [one["pointB"] for one in annotations]]
    )
    names = layer.get("annotationRelationships", ["segments"])
    neurons = {}
    for key, number in _chosen(path, names, columns).items():
        groups = [one.get("segments") or [] for one in annotations]
        flat = [g if g and isinstance(g[0], list) else [g] for g in groups]
        neurons[key] = np.array([_single(g[number]) if number < len(g) else 0 for g in flat])
    properties = [one["id"] for one in layer.get("annotationProperties", [])]
    place, score = _property(path, properties, columns), None
    if place is not None:
        score = np.array([float(one["props"][place]) for one in annotations])
    return Lines(_in_world(path, ends.astype(float), whole, layer), neurons, score)


def _in_world(
    path: str, ends: np.ndarray, state: Mapping[str, Any], layer: Mapping[str, Any]
) -> np.ndarray:
    """Bring points of a layer to nm, z, y, x, by the transform of its source."""
    source = layer.get("source", {})
    sources = source if isinstance(source, list) else [source]
    transforms = [one.get("transform") for one in sources if isinstance(one, dict)]
    transform: dict[str, Any] = next((one for one in transforms if one), {})
    dimensions = transform.get("outputDimensions", state.get("dimensions"))
    scale, order = _scale(path, dimensions)
    if ends.ndim != 3 or ends.shape[2] != 3:
        raise InputError(f"{path} has points that are not x, y, z; {_ANOTHER}")
    if transform.get("matrix") is not None:
        matrix = np.array(transform["matrix"], float)
        if matrix.shape != (3, 4):
            raise InputError(
                f"{path}: the transform of the annotations has a matrix of the shape "
                f"{matrix.shape}; (3, 4) is expected"
            )
        ends = ends @ matrix[:, :3].T + matrix[:, 3]
    return np.asarray((ends * scale)[..., order])


def _scale(path: str, dimensions: object) -> tuple[np.ndarray, list[int]]:
    """Return the size of a step along each axis, nm, and where z, y and x stand."""
    if not isinstance(dimensions, dict) or sorted(dimensions) != ["x", "y", "z"]:
        raise InputError(
            f"{path}: the annotations have the dimensions {dimensions!s:.100}; x, y and z with "
            'their lengths are expected, such as {"x": [4e-9, "m"], ...}'
        )
    sizes = []
    for axis, (size, unit) in dimensions.items():
        nm = float(size) * 10.0 ** power_of(unit, f"dimension {axis} of {path}")
        sizes.append(float(f"{nm:.12g}"))  # 4e-9 m are 4 nm
        if not (np.isfinite(sizes[-1]) and sizes[-1] > 0):
            raise InputError(f"{path}: dimension {axis} has the size {size}; a length is expected")
    return np.array(sizes), [list(dimensions).index(axis) for axis in "zyx"]


def _chosen(path: str, there: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Find the relations that name the neurons of both ends."""
    found = {}
    for key, names in _NEURONS.items():
        if key in columns and columns[key] not in there:
            raise InputError(
                f"{path} has no relation {columns[key]!r}; it has {', '.join(there) or 'none'}"
            )
        tried = [name for name in ((columns[key],) if key in columns else names) if name in there]
        if tried:
            found[key] = list(there).index(tried[0])
    return found


def _property(path: str, there: Sequence[str], columns: Mapping[str, str]) -> int | None:
    wanted = columns.get("score", "score")
    if wanted in there:
        return list(there).index(wanted)
    if "score" in columns:
        raise InputError(f"{path} has no property {wanted!r}; it has {', '.join(there) or 'none'}")
    return None


def _single(ids: Sequence[str | int]) -> int:
    """Return the one neuron of an end; with none or several it is unknown."""
    number = int(ids[0]) if len(ids) == 1 else 0
    return number if number < 2**63 else 0


def _of_folder(path: str, columns: Mapping[str, str]) -> Lines:
    import tensorstore  # tables need it not

    base = path.removeprefix("precomputed://").split("|")[0].rstrip("/") + "/"
    try:
        spec = tensorstore.KvStore.Spec(
            base if is_url(base) else {"driver": "file", "path": str(Path(base).absolute()) + "/"}
        )
        found = tensorstore.KvStore.open(spec).result().read("info").result()
        if found.state != "value":
            raise InputError(
                f"{path} has no file info; a folder or URL of precomputed annotations is expected"
            )
        return _of_info(path, json.loads(found.value), spec, columns)
    except InputError:
        raise
    except (OSError, RuntimeError, NotImplementedError, ValueError) as error:  # of tensorstore
        raise InputError(f"{path} cannot be read as annotations: {error!s:.300}") from None


def _of_info(path: str, info: dict[str, Any], spec: Any, columns: Mapping[str, str]) -> Lines:
    if info.get("@type") != "neuroglancer_annotations_v1":
        raise InputError(
            f"{path} holds {info.get('@type', 'something else')!s:.60}; "
            "neuroglancer_annotations_v1 is expected"
        )
    kind = str(info["annotation_type"]).lower()
    if kind != "line":
        raise InputError(f"{path} holds annotations of the type {kind:.40}; lines are expected")
    scale, order = _scale(path, info["dimensions"])
    ids, records = _records(path, info, spec)
    ends = records[:, :24].copy().view("<f4").reshape(-1, 2, 3).transpose(1, 0, 2).astype(float)
    properties = sorted(info.get("properties", []), key=lambda p: -min(4, _aligned(p["type"])))
    place, score = _property(path, [p["id"] for p in properties], columns), None
    if place is not None:
        kinds = [p["type"] for p in properties]
        first = 24 + sum(_SIZES[kind] for kind in kinds[:place])
        if kinds[place] != "float32" or first + 4 > records.shape[1]:
            raise InputError(
                f"{path}: the property {properties[place]['id']!r} is {kinds[place]}; a score is "
                "float32: name another (columns: {score: ...})"
            )
        score = records[:, first : first + 4].copy().view("<f4")[:, 0].astype(float)
    names = [one["id"] for one in info.get("relationships", [])]
    chosen, neurons = _chosen(path, names, columns), {}
    if chosen:
        values = _values(info["by_id"], spec, [(int(i), str(i)) for i in ids])
        related = [_related(path, value, records.shape[1], len(names)) for value in values]
        for key, number in chosen.items():
            neurons[key] = np.array([_single(one[number]) for one in related], np.int64)
    return Lines((ends * scale)[..., order], neurons, score, ids.astype(np.int64))


def _aligned(kind: str) -> int:
    """Return the alignment of a property, by which properties are sorted."""
    return 1 if kind in ("rgb", "rgba") else _SIZES[kind]


def _records(path: str, info: dict[str, Any], spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read ids and encoded lines, each once, from the index by place; sorted by id."""
    ids: list[np.ndarray] = [np.zeros(0, np.uint64)]
    records: list[np.ndarray] = []
    for level in info["spatial"]:
        grid = [int(size) for size in level["grid_shape"]]
        if len(grid) != 3 or not 0 < np.prod(grid, dtype=float) <= MOST_CELLS:
            raise InputError(
                f"{path}: an index by place has {grid} cells; at most {MOST_CELLS} are read. Write "
                "the annotations with larger cells, or as a table"
            )
        keys = ((morton_code(cell, grid), "_".join(map(str, cell))) for cell in np.ndindex(*grid))
        for value in _values(level, spec, keys):
            if value is None:
                continue
            count = int.from_bytes(value[:8], "little")
            size, odd = divmod(len(value) - 8, count) if count else (32, len(value) - 8)
            if odd or size < 32 or (records and count and size - 8 != records[0].shape[1]):
                raise InputError(
                    f"{path}: a cell of {level['key']} has {len(value)} bytes for {count} lines, "
                    f"which cannot be; the file is damaged: {_ANOTHER}"
                )
            if count:
                body = np.frombuffer(value, np.uint8, offset=8)
                records.append(body[: count * (size - 8)].reshape(count, size - 8))
                ids.append(body[count * (size - 8) :].copy().view("<u8"))
    numbers, first = np.unique(np.concatenate(ids), return_index=True)
    return numbers, np.concatenate(records)[first] if records else np.zeros((0, 24), np.uint8)


def _values(index: dict[str, Any], spec: Any, keys: Any) -> Iterator[bytes | None]:
    """Read the values of an index by its keys, each a number and a name; None: not there."""
    import tensorstore

    base = spec.copy()
    base.path += index["key"].rstrip("/") + "/"
    sharding = index.get("sharding")
    if sharding is None:
        store = tensorstore.KvStore.open(base).result()
    else:
        sharded = {"driver": "neuroglancer_uint64_sharded", "base": base.to_json()}
        store = tensorstore.KvStore.open(
            {
                **sharded,
                "metadata": sharding,
                "context": {"cache_pool": {"total_bytes_limit": 2**26}},
            }
        ).result()
    for some in batched(keys, _AT_ONCE):
        waiting = [
            store.read(name if sharding is None else number.to_bytes(8, "big"))
            for number, name in some
        ]
        for one in waiting:
            found = one.result()
            yield found.value if found.state == "value" else None


def morton_code(cell: Sequence[int], grid: Sequence[int]) -> int:
    """Number a cell as the compressed Morton code does."""
    code = place = 0
    for bit in range(max(grid).bit_length()):
        for at, size in zip(cell, grid, strict=True):
            if (size - 1) >> bit:
                code |= ((int(at) >> bit) & 1) << place
                place += 1
    return code


def _related(path: str, value: bytes | None, offset: int, count: int) -> list[list[int]]:
    """Read the neurons that a line is related to, by relation."""
    if value is None:
        raise InputError(f"{path}: a line is missing in the index by id; {_ANOTHER}")
    result = []
    for _ in range(count):
        size = int.from_bytes(value[offset : offset + 4], "little")
        offset += 4
        if offset + 8 * size > len(value):
            raise InputError(f"{path}: the index by id is damaged; {_ANOTHER}")
        result.append(np.frombuffer(value, "<u8", size, offset).tolist())
        offset += 8 * size
    return result
