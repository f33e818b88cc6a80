"""Pictures of sections and of curves, drawn with matplotlib without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from synpol.polarity import polarity_to_seg
from synpol.training.log import loss_terms

#: colours of the sides everywhere: pre magenta, post cyan
PRE, POST = np.array([1.0, 0.1, 0.9]), np.array([0.0, 0.85, 1.0])
UNION = np.array([1.0, 0.75, 0.1])
_SHADOW = [Stroke(linewidth=2, foreground="black"), Normal()]


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def grey(section: np.ndarray) -> np.ndarray:
    """A section as RGB in 0..1, stretched between its 0.5 and 99.5 percentiles."""
    low, high = np.percentile(section, [0.5, 99.5])
    scaled = np.clip((section.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(scaled[..., None], 3, axis=-1)


def with_polarity(
    section: np.ndarray, polarity: np.ndarray, exclusive: bool = False, sides: bool = True
) -> np.ndarray:
    """A section tinted by the probabilities of its sides.

    Parameters
    ----------
    section : (y, x) array
    polarity : (3, y, x) array
        0..255.
    exclusive, sides : bool
        Which channels hold what.
    """
    image = grey(section)
    first = 1 if exclusive else 0
    tints = [(PRE, polarity[first]), (POST, polarity[first + 1])]
    if not sides:
        both = polarity[1:].astype(np.float32).sum(axis=0).clip(0, 255)
        tints = [(UNION, both if exclusive else polarity[2])]
    for colour, probability in tints:
        alpha = 0.75 * probability[..., None].astype(np.float32) / 255
        image = image * (1 - alpha) + colour * alpha
    return image


def with_instances(section: np.ndarray, labels: np.ndarray, sides: bool = True) -> np.ndarray:
    """A section with filled and outlined instances: pre magenta, post cyan."""
    image = grey(section)
    groups = [(UNION, labels != 0)]
    if sides:
        is_pre = polarity_to_seg(labels)[1]
        groups = [(PRE, is_pre), (POST, (labels != 0) & ~is_pre)]
    for colour, mask in groups:
        image[mask] = 0.6 * image[mask] + 0.4 * colour
    image[outline(labels)] = 1.0
    return image


def outline(labels: np.ndarray) -> np.ndarray:
    """Voxels of an instance whose right or lower neighbour is another one."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge & (labels != 0)


def panel(
    columns: Sequence[tuple[str, np.ndarray]], numbers: Mapping[int, np.ndarray] | None = None
) -> Figure:
    """Pictures in two columns.

    Parameters
    ----------
    columns : sequence of (title, RGB image)
    numbers : mapping of column to label array, optional
        Writes the number n of each synapse at its place.
    """
    height, width = columns[0][1].shape[:2]
    rows, size = -(-len(columns) // 2), 5.5
    figure = Figure(figsize=(2 * size, rows * (size * height / width + 0.3)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(rows, 2)).ravel()
    for unused in axes[len(columns) :]:
        unused.axis("off")
    for k, (title, image) in enumerate(columns):
        axes[k].imshow(np.clip(image, 0, 1), interpolation="nearest")
        axes[k].set_title(title, fontsize=10)
        axes[k].axis("off")
        labels = (numbers or {}).get(k)
        if labels is not None:
            synapse, _ = polarity_to_seg(labels)
            for number in np.unique(synapse[synapse > 0]):
                y, x = np.argwhere(synapse == number).mean(axis=0)
                axes[k].text(
                    x + 7, y - 7, str(number), color="yellow", fontsize=8, path_effects=_SHADOW
                )
    return figure


def data_uri(figure: Figure, dpi: int = 110) -> str:
    """The figure as text for the ``src`` of an HTML image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return _png_in_text(buffer.getvalue())


def png_uri(image: np.ndarray) -> str:
    """An RGB image in 0..1 as text for the ``src`` of an HTML image."""
    import imageio.v3 as iio

    content = iio.imwrite(
        "<bytes>", np.rint(image.clip(0, 1) * 255).astype(np.uint8), extension=".png"
    )
    return _png_in_text(content)


def _png_in_text(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def training_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss with its terms, and the share of right sides, over iterations.

    Curves are running means over about 1 % of the iterations.

    Parameters
    ----------
    rows : sequence of mappings
        Rows of ``log.csv``.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    iteration = np.array([float(r["iteration"]) for r in rows])
    for name in ("loss", *loss_terms(rows[0])):
        values = np.array([float(r.get(name) or "nan") for r in rows])
        if np.isfinite(values).any():
            left.plot(iteration, smooth(values), label=name)
    left.set(xlabel="iteration", ylabel="loss", ylim=(0, None))
    left.legend(fontsize=8)
    side = np.array([float(r.get("side_right") or "nan") for r in rows])
    right.plot(iteration, smooth(side))
    right.axhline(0.5, color="grey", linestyle=":", label="chance")
    right.set(xlabel="iteration", ylabel="side right, voxels of synapses", ylim=(0.4, 1))
    right.legend(fontsize=8)
    return figure


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean that passes over missing values."""
    width = max(1, len(values) // 100)
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def score_curves(scores: Mapping[str, Any]) -> Figure:
    """F1 over IoU, a line for each kind of score."""
    figure, axes = new_figure(5, 3.2)
    iou = sorted(scores["iou"], key=float)
    for name in scores["iou"][iou[0]]:
        axes.plot(
            [float(i) for i in iou],
            [scores["iou"][i][name]["f1"] for i in iou],
            "o-",
            label=name.replace("_", " "),
        )
    axes.set(xlabel="IoU", ylabel="F1", ylim=(0, 1))
    axes.legend(fontsize=8)
    return figure


def cutoff_curves(score: np.ndarray, correct: np.ndarray, truth: int) -> Figure:
    """Precision, recall and F1 if synapses below a score were left out, over that score.

    Parameters
    ----------
    score : (n,) float array
        0..1.
    correct : (n,) bool array
    truth : int
        True synapses.
    """
    figure, axes = new_figure(5, 3.2)
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(correct[order])
    left = np.arange(1, len(order) + 1)
    for name, values in (
        ("precision", found / left),
        ("recall", found / max(truth, 1)),
        ("F1", 2 * found / (left + truth)),
    ):
        axes.step(score[order], values, where="post", label=name)
    axes.set(xlabel="score of the least sure that is kept", ylabel="", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    return figure


def calibration(score: np.ndarray, correct: np.ndarray) -> Figure:
    """Share of correct synapses over their score, in bins of equal count.

    Parameters
    ----------
    score : (n,) float array
        0..1.
    correct : (n,) bool array
    """
    from scipy.stats import binomtest

    figure, axes = new_figure(5, 3.2)
    order = np.argsort(score, kind="stable")
    for part in np.array_split(order, max(1, min(10, len(order) // 10))):
        found = int(correct[part].sum())
        share, where = found / len(part), score[part].mean()
        low, high = binomtest(found, len(part)).proportion_ci(0.95, "wilson")
        axes.errorbar(where, share, [[share - low], [high - share]], fmt="o", color="tab:blue")
    axes.set(xlabel="score", ylabel="share that is correct", ylim=(0, 1.05))
    return figure


def augmentation_gallery(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]], plain: np.ndarray
) -> Figure:
    """Augmented patches, a row each with the three sections around the one that changed most.

    Parameters
    ----------
    rows : mapping of name to (image, labels)
        (z, y, x) arrays; odd labels are pre sides.
    plain : (z, y, x) array
        The image before; all rows share its grey scale.
    """
    low, high = np.percentile(plain, [0.5, 99.5])
    figure = Figure(figsize=(9, 3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (name, (image, labels)) in zip(axes, rows.items(), strict=True):
        change = np.abs(image - plain).mean((1, 2))
        middle = int(np.clip(change.argmax(), 1, len(image) - 2)) if len(image) > 2 else 0
        for plot, section in zip(line, range(middle - 1, middle + 2), strict=True):
            at = int(np.clip(section, 0, len(image) - 1))
            plot.imshow(image[at], cmap="gray", vmin=low, vmax=high)
            for side, colour in ((labels[at] % 2 == 1, PRE), (labels[at] % 2 == 0, POST)):
                mask = side & (labels[at] > 0)
                if mask.any():
                    plot.contour(mask, [0.5], colors=[colour], linewidths=0.8)
            plot.set(xticks=[], yticks=[])
            plot.set_title(f"{name}, section {at}", fontsize=9)
    return figure
