"""Draw sections of a volume and curves of scores, with matplotlib and without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from synpol.polarity import Channels, side_voxels, synapse_of
from synpol.report.colours import POST, PRE, UNION
from synpol.training.log import loss_terms

if TYPE_CHECKING:  # their modules bring scipy and the decoder, which no picture needs
    from synpol.evaluation.links import LinkScores
    from synpol.training.tuning import Setting

_SHADOW = [Stroke(linewidth=2, foreground="black"), Normal()]


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure with one plot; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def grey(section: np.ndarray) -> np.ndarray:
    """Turn a section into an RGB picture in 0..1, with its 0.5 and 99.5 percentiles as limits."""
    low, high = np.percentile(section, [0.5, 99.5])
    scaled = np.clip((section.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(scaled[..., None], 3, axis=-1)


def with_polarity(
    section: np.ndarray, polarity: np.ndarray, exclusive: bool = False, sides: bool = True
) -> np.ndarray:
    """Tint a section with the probabilities of the two sides.

    Parameters
    ----------
    section : (y, x) array
        Grey values of the image.
    polarity : (3, y, x) array
        Probabilities on the scale 0..255.
    exclusive : bool
        Whether the channels are background, pre, post instead of pre, post, union.
    sides : bool
        Whether to show pre and post; otherwise the union is shown.

    Returns
    -------
    (y, x, 3) float array
        RGB in 0..1.
    """
    image = grey(section)
    channels = Channels.of(exclusive)
    tints = [(PRE, channels.pre(polarity)), (POST, channels.post(polarity))]
    if not sides:
        tints = [(UNION, channels.union(polarity.astype(np.float32)).clip(0, 255))]
    for colour, probability in tints:
        alpha = 0.75 * probability[..., None].astype(np.float32) / 255
        image = image * (1 - alpha) + colour * alpha
    return image


def with_instances(section: np.ndarray, labels: np.ndarray, sides: bool = True) -> np.ndarray:
    """Draw instances over a section, filled and outlined.

    Parameters
    ----------
    section : (y, x) array
        Grey values of the image.
    labels : (y, x) array of unsigned integers
        Labels of the instances.
    sides : bool
        Whether the labels are 2n-1 and 2n, drawn in magenta (pre) and cyan (post); otherwise all
        instances are yellow.

    Returns
    -------
    (y, x, 3) float array
        RGB in 0..1.
    """
    image = grey(section)
    groups = [(UNION, labels != 0)]
    if sides:
        groups = list(zip((PRE, POST), side_voxels(labels), strict=True))
    for colour, mask in groups:
        image[mask] = 0.6 * image[mask] + 0.4 * colour
    image[outline(labels)] = 1.0
    return image


def outline(labels: np.ndarray) -> np.ndarray:
    """Return the voxels of instances whose right or lower neighbour has another label, as bool."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge & (labels != 0)


def panel(
    columns: Sequence[tuple[str, np.ndarray]], numbers: Mapping[int, np.ndarray] | None = None
) -> Figure:
    """Arrange pictures in two columns.

    Parameters
    ----------
    columns : sequence of (title, RGB image)
        Pictures, row by row.
    numbers : mapping of int to label array, optional
        Labels (2n-1 / 2n) of some pictures, by their positions in `columns`. The number n of each
        synapse is written beside it.
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
            synapse = synapse_of(labels)
            for number in np.unique(synapse[synapse > 0]):
                y, x = np.argwhere(synapse == number).mean(axis=0)
                axes[k].text(
                    x + 7, y - 7, str(number), color="yellow", fontsize=8, path_effects=_SHADOW
                )
    return figure


def data_uri(figure: Figure, dpi: int = 110) -> str:
    """Encode a figure as text for the ``src`` of an HTML image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return _png_in_text(buffer.getvalue())


def png_uri(image: np.ndarray) -> str:
    """Encode an RGB image in 0..1 as text for the ``src`` of an HTML image."""
    import imageio.v3 as iio

    content = iio.imwrite(
        "<bytes>", np.rint(image.clip(0, 1) * 255).astype(np.uint8), extension=".png"
    )
    return _png_in_text(content)


def _png_in_text(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def training_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss with its terms, and the share of voxels with the right side.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of ``log.csv``. The curves are running means over 1 % of the rows.
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
    """Return the running mean over 1 % of the values; missing values (NaN) are left out."""
    width = max(1, len(values) // 100)
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def score_curves(scores: Mapping[str, Any]) -> Figure:
    """Draw F1 over IoU, a line for each kind of score in the content of ``scores.json``."""
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


def threshold_curves(settings: Sequence[Setting], iou: float) -> Figure:
    """Draw F1 over the threshold, a line for each box of the dilation and minimum size.

    Where there is only one such line, precision and recall are drawn too.

    Parameters
    ----------
    settings : sequence of Setting
        Settings that were tried, with their scores.
    iou : float
        IoU of the scores.
    """
    figure, axes = new_figure(6, 4)
    lines = list(dict.fromkeys((s.dilate_sz, s.thres_small) for s in settings))
    for dilate_sz, thres_small in lines:
        line = [s for s in settings if (s.dilate_sz, s.thres_small) == (dilate_sz, thres_small)]
        thres = [s.thres for s in line]
        label = f"F1, dilate_sz {dilate_sz}, thres_small {thres_small}"
        axes.plot(thres, [s.f1 for s in line], "o-", label=label)
        if len(lines) == 1:
            axes.plot(thres, [s.precision for s in line], "--", label="precision")
            axes.plot(thres, [s.recall for s in line], ":", label="recall")
    axes.set(xlabel="thres", ylabel=f"validation, IoU {iou:g}", ylim=(0, 1))
    axes.legend(fontsize="small")
    return figure


def cutoff_curves(score: np.ndarray, correct: np.ndarray, truth: int) -> Figure:
    """Draw precision, recall and F1 over a cutoff: synapses with a lower score are left out.

    Parameters
    ----------
    score : (n,) float array
        Scores of the predicted synapses, 0..1.
    correct : (n,) bool array
        Whether each predicted synapse is right.
    truth : int
        Number of true synapses.
    """
    figure, axes = new_figure(5, 3.2)
    order = np.argsort(-score, kind="stable")
    matched = np.cumsum(correct[order])
    kept = np.arange(1, len(order) + 1)
    for name, values in (
        ("precision", matched / kept),
        ("recall", matched / max(truth, 1)),
        ("F1", 2 * matched / (kept + truth)),
    ):
        axes.step(score[order], values, where="post", label=name)
    axes.set(xlabel="lowest score that is kept", ylabel="", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    return figure


def link_curves(scores: LinkScores) -> Figure:
    """Draw how well links and connections are found.

    Parameters
    ----------
    scores : LinkScores
        Scores with their curve, which is empty where links have no score.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in ("precision", "recall", "f1"):
        values = [point[name] for point in scores.curve]
        axes[0].plot([point["score"] for point in scores.curve], values, ".-", label=name)
    axes[0].axhline(
        scores.recall_of_one_post, color="grey", ls=":", label="recall of one post for each site"
    )
    axes[0].set(xlabel="lowest score that is kept", title="links", ylim=(0, 1.02))
    for name in ("precision", "recall"):
        values = [row[name] for row in scores.edges]
        axes[1].plot([row["links"] for row in scores.edges], values, ".-", label=name)
    axes[1].set(xlabel="links that make a connection", title="connections", ylim=(0, 1.02))
    for one in axes:
        one.legend(fontsize=8)
    return figure


def connection_curve(links: pa.Table, min_score: float) -> Figure:
    """Draw the number of links and of connections over the lowest score that counts.

    Parameters
    ----------
    links : pyarrow.Table
        Columns ``pre_id``, ``post_id``, ``score`` and ``duplicate_of`` of the table of links.
    min_score : float
        Score from which on links counted.
    """
    links = links.filter(links["duplicate_of"].to_numpy() == 0)
    best = links.group_by(["pre_id", "post_id"]).aggregate([("score", "max")])
    figure, axes = new_figure(5, 3.2)
    for name, column in (("links", links["score"]), ("connections", best["score_max"])):
        score = np.sort(column.to_numpy())
        axes.step(score, np.arange(len(score), 0, -1), where="pre", label=name)
    axes.axvline(min_score, color="grey", ls=":", label="connect.min_score")
    axes.set(xlabel="lowest score that counts", ylabel="number", ylim=(0, None))
    axes.legend(fontsize=8)
    return figure


def calibration(score: np.ndarray, correct: np.ndarray) -> Figure:
    """Draw the share of correct synapses over their score, in bins of equal count.

    Parameters
    ----------
    score : (n,) float array
        Scores of the predicted synapses, 0..1.
    correct : (n,) bool array
        Whether each predicted synapse is right.
    """
    from scipy.stats import binomtest

    figure, axes = new_figure(5, 3.2)
    order = np.argsort(score, kind="stable")
    for part in np.array_split(order, max(1, min(10, len(order) // 10))):
        right, count = int(correct[part].sum()), len(part)
        share, mean = right / count, score[part].mean()
        low, high = binomtest(right, count).proportion_ci(0.95, "wilson")
        axes.errorbar(mean, share, [[share - low], [high - share]], fmt="o", color="tab:blue")
    axes.set(xlabel="score", ylabel="share that is correct", ylim=(0, 1.05))
    return figure


def augmentation_gallery(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]], plain: np.ndarray
) -> Figure:
    """Draw a row for each augmented patch: the section that changed most, between its neighbours.

    Parameters
    ----------
    rows : mapping of name to (image, labels)
        Augmented patches, (z, y, x) arrays; labels are 2n-1 on pre and 2n on post sides.
    plain : (z, y, x) array
        Image of the patch before the augmentation; all rows have its grey scale.
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
            for mask, colour in zip(side_voxels(labels[at]), (PRE, POST), strict=True):
                if mask.any():
                    plot.contour(mask, [0.5], colors=[colour], linewidths=0.8)
            plot.set(xticks=[], yticks=[])
            plot.set_title(f"{name}, section {at}", fontsize=9)
    return figure
