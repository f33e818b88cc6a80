"""Show what a network answers before any run: polarity, provisional instances, a region to draw.

The layers are arrays whose metadata lie in a folder and whose chunks are computed when neuroglancer
asks for them (`synpol.prediction.live`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import neuroglancer
import numpy as np
import tornado.web
import yaml
from numcodecs.zstd import Zstd

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index
from synpol.config import Config, Roi
from synpol.decoding.reference import polarity2instance
from synpol.errors import InputError
from synpol.images.image import Image
from synpol.images.writing import create_image
from synpol.prediction.live import LivePrediction
from synpol.prediction.newest import NewestFirst
from synpol.prediction.roi import VoxelRoi, roi_of
from synpol.scene.chunks import Chunk, ChunkOf
from synpol.scene.state import Layers, scene_of

#: titles of the layers that are computed
TITLES = {"prediction": "prediction (live)", "instances": "instances (provisional)"}
#: layer in which a box is drawn
REGION = "region"
#: bytes of blocks that are kept, and of results of windows
BLOCK_BYTES, WINDOW_BYTES = 2**28, 2**29


class LiveScene:
    """Layers that a network computes while somebody looks.

    Parameters
    ----------
    config : Config
        Image, network, and how to decode.
    checkpoint : Path
        Checkpoint of the network.
    folder : Path
        Folder for the metadata of the arrays.

    Raises
    ------
    InputError
        The input cannot be used, or `predict.roi` does not lie in the image.
    """

    def __init__(self, config: Config, checkpoint: Path, folder: Path) -> None:
        self.config = config
        live = LivePrediction.of(config, checkpoint, folder, "prediction")
        self.source, self.blocks = live.source, live.blocks
        self.region = VoxelRoi.of(live.source, config.predict.roi)
        instances = create_image(
            folder,
            "instances",
            shape=live.blocks.shape,
            dtype=np.uint64,
            voxel_size=live.source.voxel_size,
            offset=live.source.offset,
            unit=live.source.unit,
            chunk_shape=live.blocks.block,
            placed=live.source.placed,
        )
        self.layers = Layers.around(config, live.source, live.polarity, instances)
        self.queue = NewestFirst(live.open(WINDOW_BYTES), BLOCK_BYTES)

    def close(self) -> None:
        """End the thread that computes."""
        self.queue.close()

    def chunks(self) -> dict[str, ChunkOf]:
        """Return the functions that find chunks, by the names of the layers."""
        return {"prediction": self._polarity, "instances": self._instances}

    def _polarity(self, address: str) -> Chunk | None:
        channel, _, place = address.partition("/")
        index = index_at(place, self.blocks) if channel == "0" else None
        if index is None:
            return None
        return Chunk(self.queue.ask(index), partial(encoded, block=self.blocks.block))

    def _instances(self, address: str) -> Chunk | None:
        index = index_at(address, self.blocks)
        if index is None:
            return None

        def decoded(polarity: np.ndarray) -> bytes:
            labels = provisional(polarity, self.config, index, self.blocks)
            return encoded(labels, self.blocks.block)

        return Chunk(self.queue.ask(index), decoded)

    def state(self, address_of: Mapping[str, str]) -> neuroglancer.ViewerState:
        """Make the state of neuroglancer, with the region of the config as a box."""
        state = scene_of(self.layers, self.config, address_of)
        for layer in state.layers:
            layer.name = TITLES.get(layer.name, layer.name)
        region = neuroglancer.LocalAnnotationLayer(state.dimensions, tool="annotateBoundingBox")
        offset = np.array(self.source.offset_nm) / self.source.voxel_size_nm
        begin = offset + self.region.offset
        end = begin + self.region.shape
        if self.config.predict.roi is not None:
            region.annotations.append(
                neuroglancer.AxisAlignedBoundingBoxAnnotation(
                    id=REGION, point_a=begin[::-1], point_b=end[::-1]
                )
            )
        state.layers[REGION] = region
        state.selected_layer.layer = REGION
        state.selected_layer.visible = True
        state.position = np.floor((begin + end)[::-1] / 2) + 0.5
        state.layout = "xy"
        return state

    def pages(self, token: str, viewer: neuroglancer.Viewer) -> list[Any]:
        """Return the handler of the page that says `predict.roi`, for `scene_server`."""
        about = {"viewer": viewer, "source": self.source}
        return [(rf"/region/{token}", _Region, about)]


def index_at(address: str, blocks: BlockGrid) -> Index | None:
    """Return the index of a block from its address, such as ``0/3/12``; None: there is none."""
    parts = address.split("/")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 7 for p in parts):
        return None
    z, y, x = map(int, parts)
    inside = all(i < n for i, n in zip((z, y, x), blocks.grid, strict=True))
    return (z, y, x) if inside and address == f"{z}/{y}/{x}" else None


def encoded(voxels: np.ndarray, block: Index) -> bytes:
    """Encode a block as a chunk of the arrays that `create_image` makes, filled up with zeros."""
    missing = [b - n for b, n in zip(block, voxels.shape[-3:], strict=True)]
    whole = np.pad(voxels, [(0, 0)] * (voxels.ndim - 3) + [(0, n) for n in missing])
    ordered = whole.astype(whole.dtype.newbyteorder("<"), copy=False)
    return bytes(Zstd(level=1, checksum=True).encode(ordered.tobytes()))


def provisional(
    polarity: np.ndarray, config: Config, index: Index, blocks: BlockGrid
) -> np.ndarray:
    """Decode a block alone, with numbers that no other block has; (z, y, x) uint64.

    Synapses that reach into other blocks are cut there.
    """
    options = config.decode
    labels = polarity2instance(
        polarity,
        thres=options.thres,
        thres_small=options.thres_small,
        dilate_sz=options.dilate_sz,
        semantic=options.semantic,
        exclusive=config.exclusive,
        sides=options.sides,
    ).astype(np.uint64)
    if options.semantic:
        return labels
    number = int(np.ravel_multi_index(index, blocks.grid))
    most = 2 * int(np.prod(blocks.block))  # labels of a block; an even number keeps the sides
    return np.where(labels > 0, labels + np.uint64(number * most), np.uint64(0))


class _Region(tornado.web.RequestHandler):
    """Say the box that was drawn last as `predict.roi`."""

    def initialize(self, viewer: neuroglancer.Viewer, source: Image) -> None:
        self.viewer, self.source = viewer, source

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Type", "text/plain; charset=utf-8")

    def get(self) -> None:
        self.finish(region_text(self.viewer.state, self.source))


def region_text(state: neuroglancer.ViewerState, source: Image) -> str:
    """Write the box that was drawn last in the layer `REGION` as a part of a config."""
    try:
        roi = drawn_roi(state, source)
    except InputError as error:
        return f"# {error}\n"
    shown = {"offset": list(roi.offset), "shape": list(roi.shape)}
    text = yaml.safe_dump({"predict": {"roi": shown}}, default_flow_style=None)
    return f"# the box that was drawn last, in {source.said_unit or source.unit} (z, y, x)\n{text}"


def drawn_roi(state: neuroglancer.ViewerState, source: Image) -> Roi:
    """Return the box that was drawn last as a region of whole voxels of an image.

    Voxels that the box touches belong to the region.

    Raises
    ------
    InputError
        There is no box, or it lies beside the image.
    """
    layers = [layer for layer in state.to_json().get("layers", []) if layer.get("name") == REGION]
    layer = layers[0] if layers else {}
    drawn = [
        one for one in layer.get("annotations", []) if one["type"] == "axis_aligned_bounding_box"
    ]
    if not drawn:
        raise InputError(
            f"there is no box: choose the layer {REGION!r}, and draw one there (Ctrl-click at two "
            "opposite corners, which may lie on different sections)"
        )
    nm = _scales_nm(state, layer)
    corners = [np.array(drawn[-1][f"point{end}"][:3], float) * nm for end in "AB"]
    low, high = np.minimum(*corners)[::-1], np.maximum(*corners)[::-1]
    size, first = np.array(source.voxel_size_nm), np.array(source.offset_nm)
    begin, end = (np.round((edge - first) / size, 3) for edge in (low, high))
    begin = np.floor(begin)
    end = np.maximum(np.ceil(end), begin + 1)
    begin, end = np.maximum(begin, 0), np.minimum(end, source.shape_vx)
    if (begin >= end).any():
        axis = "zyx"[int(np.argmax(begin >= end))]
        raise InputError(f"the box lies beside the image along {axis}; draw it inside")
    return roi_of(source.part([int(b) for b in begin], [int(n) for n in end - begin]))


def _scales_nm(state: neuroglancer.ViewerState, layer: Mapping[str, Any]) -> np.ndarray:
    """Return the lengths, in nm along x, y, z, in which a layer counts its annotations."""
    source = layer.get("source", {})
    source = source[0] if isinstance(source, list) else source
    told = source.get("transform", {}) if isinstance(source, dict) else {}
    dimensions = told.get("outputDimensions") or state.to_json()["dimensions"]
    return np.array([dimensions[axis][0] * 1e9 for axis in "xyz"])
