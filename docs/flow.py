"""Draw docs/flow.png: image -> polarity -> instances -> table -> connectome, of one result.

Everything in it is read from the files of a result that the commands in pipelines/ left. A synapse
has one colour in the whole picture, so that it can be followed from its voxels to the line that it
draws between two neurons.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from scipy.ndimage import center_of_mass, gaussian_filter

import synpol
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.polarity import split_labels, synapse_of
from synpol.report import figures

#: height and width of the part of a section that is drawn, voxels
CROP = (112, 150)
#: voxels of each side that a section has to show of a synapse that is drawn in colour
SHOWN = 40
WIDTH, HEIGHT = 9.4, 6.15  # inches; 900 px on GitHub
INK, QUIET, GREY = "#1f2328", "#59636e", "#9aa4af"
type Colour = tuple[float, float, float]
COLOURS = [colormaps["tab10"](k)[:3] for k in (1, 2, 0, 4, 3, 8, 9, 6, 5)]
COLUMNS = ("synapse_id", "z", "y", "x", "pre_voxels", "post_voxels", "pre_score", "post_score")

CONFIG = """
run_dir: {0}/run
prepare:
  synthetic:
    - {{output: {0}/result, shape: [40, 320, 320], seed: 5, min_side_voxels: 40}}
predict: {{raw: {0}/result/raw, output: {0}/result}}
decode: {{thres_small: 40, block_shape: [20, 160, 160]}}
connect: {{segmentation: {0}/result/neurons}}
"""


def make_result(folder: Path) -> Path:
    """Make a result without a network: the blurred truth of a synthetic volume is decoded."""
    config, result = folder / "flow.yaml", folder / "result"
    config.write_text(CONFIG.format(folder))
    _run("prepare.py", config)
    truth = open_image(result / "truth")
    polarity = gaussian_filter(synpol.seg_to_polarity(truth.array[:]), (0, 0.4, 1.2, 1.2))
    image = create_image(
        result,
        "polarity",
        shape=polarity.shape,
        dtype=np.uint8,
        voxel_size=truth.voxel_size,
        offset=truth.offset,
        unit=truth.unit,
        chunk_shape=(3, 20, 80, 80),
    )
    image.array[:] = np.rint(255 * polarity.clip(0, 1)).astype(np.uint8)
    _run("predict_blockwise.py", config, "--only", "decode")
    _run("connect.py", config)
    return result


def _run(name: str, *arguments: object) -> None:
    command = [sys.executable, f"pipelines/{name}", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)


def draw_flow(result: Path) -> Figure:
    """Draw the five things that a run makes, and the arrows between them.

    Parameters
    ----------
    result : Path
        Folder with ``raw``, ``polarity``, ``instances``, ``neurons``, the synapse table and the
        graph of neurons.
    """
    labels = open_image(result / "instances").array[:]
    z, y, x = most_synapses(labels)
    part = (z, slice(y, y + CROP[0]), slice(x, x + CROP[1]))
    raw = open_image(result / "raw")
    section, instances = raw.array[part], labels[part]
    polarity = open_image(result / "polarity").array[(slice(None), *part)]
    colours = dict(zip(whole_in(instances), COLOURS, strict=False))

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    places = [
        _place(figure, 0.1, 3.68, 2.6, "image", f"(z, y, x) {raw.array.dtype}"),
        _place(figure, 3.4, 3.68, 2.6, "polarity", "probabilities of pre, post, union"),
        _place(figure, 6.7, 3.68, 2.6, "instances", "synapse n: 2n\u22121 and 2n"),
        _place(figure, 0.1, 0.2, 5.35, "table", "synapses.parquet, a row for each synapse"),
        _place(figure, 6.35, 0.2, 2.95, "connectome", "neurons, and the synapses between them"),
    ]
    draw_image(places[0], section, raw.voxel_size_nm[2])
    draw_polarity(places[1], section, polarity)
    draw_instances(places[2], section, instances, colours)
    draw_table(places[3], result / "synapses.parquet", colours)
    draw_connectome(places[4], result, part, colours)
    middle = 3.68 + 0.97
    _arrow(figure, [(2.78, middle), (3.32, middle)], "predict")
    _arrow(figure, [(6.08, middle), (6.62, middle)], "decode")
    _arrow(figure, [(8.0, 3.6), (8.0, 3.28), (2.78, 3.28), (2.78, 2.75)], "measure")
    _arrow(figure, [(5.55, 1.2), (6.27, 1.2)], "connect")
    return figure


def most_synapses(labels: np.ndarray) -> tuple[int, int, int]:
    """First voxel of the part of a section that shows most synapses with both their sides."""
    depth, height, width = labels.shape
    best = (-1, -1, (0, 0, 0))
    for z in range(depth // 4, 3 * depth // 4):
        for y in range(0, height - CROP[0] + 1, 8):
            for x in range(0, width - CROP[1] + 1, 8):
                part = labels[z, y : y + CROP[0], x : x + CROP[1]]
                whole, any_of = len(whole_in(part)), len(np.unique(synapse_of(part)))
                best = max(best, (whole, -any_of, (z, y, x)))
    return best[2]


def whole_in(labels: np.ndarray) -> list[int]:
    """Numbers of the synapses of which a section shows enough of both sides."""
    present, voxels = np.unique(labels[labels > 0], return_counts=True)
    synapse, sides = np.unique(synapse_of(present[voxels >= SHOWN]), return_counts=True)
    return [int(n) for n in synapse[sides == 2]]


def _place(figure: Figure, left: float, bottom: float, width: float, name: str, about: str) -> Axes:
    """Make a framed plot, in inches, with its name and a few words above it."""
    height = 1.94 if bottom > 1 else 2.3
    box = (left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT)
    axes = figure.add_axes(box, xticks=[], yticks=[])
    axes.spines[:].set(color="#d1d9e0", linewidth=0.8)
    top = bottom + height
    figure.text(left / WIDTH, (top + 0.24) / HEIGHT, name, size=11, weight="bold", color=INK)
    figure.text(left / WIDTH, (top + 0.07) / HEIGHT, about, size=8, color=QUIET)
    return axes


def _arrow(figure: Figure, corners: list[tuple[float, float]], name: str) -> None:
    """Draw an arrow along corners, in inches, with its name above its longest level part."""
    points = [(x / WIDTH, y / HEIGHT) for x, y in corners]
    for k, (begin, end) in enumerate(itertools.pairwise(points), 2):
        last = k == len(points)
        line = FancyArrowPatch(
            begin,
            end,
            arrowstyle="-|>" if last else "-",
            mutation_scale=11,
            shrinkA=0,
            shrinkB=0,
            color=QUIET,
            linewidth=1.4,
            transform=figure.transFigure,
        )
        figure.add_artist(line)
    (a, y), (b, _) = max(itertools.pairwise(points), key=lambda part: abs(part[0][0] - part[1][0]))
    above = y + 0.07 / HEIGHT
    figure.text((a + b) / 2, above, name, size=8, color=INK, ha="center", style="italic")


def draw_image(axes: Axes, section: np.ndarray, nm: float) -> None:
    """Draw a section with a scale bar of 500 nm."""
    axes.imshow(figures.grey(section), interpolation="nearest", aspect="auto")
    bar = 500 / nm
    axes.add_patch(
        Rectangle((6, CROP[0] - 9), bar, 3, facecolor="white", edgecolor="black", linewidth=0.6)
    )
    _label(axes, 6 + bar / 2, CROP[0] - 15, "500 nm", "white", ha="center")


def draw_polarity(axes: Axes, section: np.ndarray, polarity: np.ndarray) -> None:
    """Draw a section tinted by the probabilities of the sides."""
    image = figures.with_polarity(section, polarity)
    axes.imshow(image.clip(0, 1), interpolation="nearest", aspect="auto")
    _label(axes, 6, CROP[0] - 8, "pre", figures.PRE, weight="bold")
    _label(axes, 29, CROP[0] - 8, "post", figures.POST, weight="bold")


def draw_instances(
    axes: Axes, section: np.ndarray, labels: np.ndarray, colours: dict[int, Colour]
) -> None:
    """Draw a section whose synapses have a colour and a number each, the pre side darker."""
    image = 0.45 + 0.55 * figures.grey(section)
    synapse, is_pre = split_labels(labels)
    for number in np.unique(synapse[synapse > 0]):
        colour = np.array(colours.get(int(number), (0.6, 0.6, 0.6)))
        image[(synapse == number) & is_pre] = colour
        image[(synapse == number) & ~is_pre] = 0.45 * colour + 0.55
    image[figures.outline(labels)] = 1
    axes.imshow(image.clip(0, 1), interpolation="nearest", aspect="auto")
    for number, colour in colours.items():
        y, x = center_of_mass(synapse == number)
        beside = 15 if x < CROP[1] - 25 else -15
        _label(axes, x + beside, y, str(number), colour, "white", ha="center", weight="bold")


def _label(
    axes: Axes, x: float, y: float, text: str, colour: Any, halo: str = "black", **how: Any
) -> None:
    """Write a word on a picture, with a halo that sets it off."""
    edge = [Stroke(linewidth=2.2, foreground=halo), Normal()]
    axes.text(x, y, text, color=colour, size=8, va="center", path_effects=edge, **how)


def draw_table(axes: Axes, table: Path, colours: dict[int, Colour]) -> None:
    """Write the rows of the coloured synapses, a few of the columns."""
    axes.set(xlim=(0, 1), ylim=(9.2, 0))
    rows = pq.read_table(table, columns=list(COLUMNS)).to_pylist()
    edges = np.linspace(0.17, 0.985, len(COLUMNS))
    for edge, name in zip(edges, COLUMNS, strict=True):
        axes.text(edge, 0.75, name, size=6.8, color=QUIET, ha="right", va="center")
    axes.axhline(1.3, color="#d1d9e0", linewidth=0.8)
    shown = [row for row in rows if row["synapse_id"] in colours]
    for line, row in enumerate(shown):
        colour = colours[row["synapse_id"]]
        at = 1.95 + 0.88 * line
        axes.add_patch(Rectangle((0.02, at - 0.27), 0.022, 0.54, color=colour))
        for edge, name in zip(edges, COLUMNS, strict=True):
            value = row[name]
            text = f"{value:.2f}" if name.endswith("score") else f"{value:.0f}"
            bold = "bold" if name == "synapse_id" else "normal"
            axes.text(edge, at, text, size=8, color=INK, ha="right", va="center", weight=bold)
    axes.text(
        0.5, 8.75, f"{len(shown)} of {len(rows)} rows, 8 of its columns; z, y, x in nm",
        size=7, color=QUIET, ha="center", va="center", style="italic",
    )  # fmt: skip


def draw_connectome(
    axes: Axes, result: Path, part: tuple[int, slice, slice], colours: dict[int, Colour]
) -> None:
    """Draw the neurons of the section, and an arrow for each connection between two of them."""
    neurons = open_image(result / "neurons").array[part]
    graph = nx.read_graphml(result / "connectivity.graphml", node_type=int)
    ids, place = np.unique(neurons, return_inverse=True)
    place = place.reshape(neurons.shape)
    pale = 0.62 + 0.38 * colormaps["Pastel1"](np.arange(len(ids)) % 8)[:, :3]
    image = pale[place]
    image[figures.outline(neurons) | (neurons == 0)] = 0.8
    axes.imshow(image, interpolation="nearest", aspect="auto")
    middles = center_of_mass(np.ones(place.shape), place, np.arange(len(ids)))
    at = {int(n): (x, y) for n, (y, x) in zip(ids, middles, strict=True)}
    drawn = {}
    for row in pq.read_table(result / "partners.parquet").to_pylist():
        if row["synapse_id"] in colours:
            drawn[row["pre_id"], row["post_id"]] = colours[row["synapse_id"]]
    inside = graph.subgraph(at)
    for pre, post in inside.edges:
        colour = drawn.get((pre, post))
        arrow = FancyArrowPatch(
            at[pre],
            at[post],
            arrowstyle="-|>",
            mutation_scale=12 if colour else 8,
            linewidth=2.2 if colour else 1.0,
            color=colour or GREY,
            connectionstyle="arc3,rad=0.12",
            shrinkA=3,
            shrinkB=4,
            zorder=3 if colour else 2,
        )
        axes.add_patch(arrow)
    x, y = np.array([at[n] for n in inside if inside.degree(n)]).T
    axes.scatter(x, y, s=30, c=INK, edgecolors="white", linewidths=0.8, zorder=4)
