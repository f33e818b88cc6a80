"""Write the page on which a person checks labels that were made from links."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
from jinja2 import Environment
from matplotlib.figure import Figure

from synpol.datasets.write_link_sides import read_made
from synpol.files import whole_file
from synpol.images.image import Image
from synpol.report.colours import POST, PRE
from synpol.report.figures import data_uri, with_instances

#: links that are drawn of each kind
COUNT = 12
#: length of a picture's side in the volume, nm
EXTENT = 1000.0


def write_link_page(path: Path, image: Image, labels: Image, table: Path) -> None:
    """Draw links of every kind, with their sides, on one page.

    Parameters
    ----------
    path : Path
        HTML file to write.
    image, labels : Image
        Image, and the labels made from links on its voxels.
    table : Path
        Table of the links; see `synpol.datasets.write_link_sides`.
    """
    links = read_made(table)
    status = np.array(links["status"].to_pylist())
    kinds = []
    for name in dict.fromkeys(["made", *np.unique(status).tolist()]):
        rows = np.flatnonzero(status == name)
        if len(rows):
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, COUNT).round().astype(int))]
            drawn = [_drawn(image, labels, links, int(row)) for row in chosen]
            kinds.append({"name": name, "count": len(rows), "links": drawn})
    environment = Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(
        files("synpol.report").joinpath("links.html").read_text(encoding="utf-8")
    )
    page = template.render(kinds=kinds, total=len(status), labels=labels.path, table=table)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _drawn(image: Image, labels: Image, links: pa.Table, row: int) -> dict[str, object]:
    """Draw the section in the middle of a link; a link far outside has no picture."""
    ends = [
        np.array([links[f"{side}_{a}"][row].as_py() for a in "zyx"]) for side in ("pre", "post")
    ]
    size, corner = np.array(image.voxel_size_nm), np.array(image.offset_nm)
    pre, post = ((end - corner) / size for end in ends)  # voxels
    middle, half = (pre + post) / 2, EXTENT / size / 2
    shape = np.array(image.shape_vx)
    low = np.clip(np.floor(middle - half), 0, shape).astype(int)
    high = np.clip(np.ceil(middle + half), 0, shape).astype(int)
    title = f"link {links['link_id'][row].as_py()}"
    if links["synapse_id"][row].as_py():
        title += f", synapse {links['synapse_id'][row].as_py()}"
    z = int(np.floor(middle[0]))
    if not 0 <= z < shape[0] or (high <= low).any():
        return {"title": title, "image": None}
    where = slice(z, z + 1), slice(low[1], high[1]), slice(low[2], high[2])
    picture = with_instances(np.asarray(image.array[where])[0], np.asarray(labels.array[where])[0])
    figure = Figure(figsize=(2.6, 2.6), layout="constrained")
    axes = figure.subplots()
    extent = (low[2], high[2], high[1], low[1])
    aspect = size[1] / size[2]
    axes.imshow(np.clip(picture, 0, 1), extent=extent, interpolation="nearest", aspect=aspect)
    axes.plot([pre[2], post[2]], [pre[1], post[1]], color="white", lw=1)
    for end, colour in ((pre, PRE), (post, POST)):
        axes.plot(end[2], end[1], "o", ms=5, color=colour, mec="white")
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.axis("off")
    title += f"; sections {pre[0]:.0f} to {post[0]:.0f}, drawn {z}"
    return {"title": title, "image": data_uri(figure, dpi=90)}
