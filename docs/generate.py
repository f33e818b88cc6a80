"""Write the generated parts of docs/: pages of keys, columns, stages and formats.

    python docs/generate.py [--pictures [NAME ...]]

--pictures draws the pictures too, all of them or those that are named. synthetic.png,
polyadic.png and review.png need nothing; flow.png is drawn from runs/demo where that is there;
result.png and scene.png need runs/demo.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synpol.command import described_keys
from synpol.config import Config, ImageSource, Section, describe
from synpol.decoding.stages import STAGES
from synpol.formats import known_formats
from synpol.synapses.table import schema_of

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
DEMO = Path("runs/demo/heldout")
#: marks around the generated part of a page that is written by hand
BEGIN, END = "<!-- made by docs/generate.py -->", "<!-- end -->"


def config_page() -> str:
    """Return the page of all config keys, with a table for each section."""
    lines = [
        "# Config keys",
        "",
        "Made by `python docs/generate.py` from the models in `synpol/config`. A config is one",
        "or more YAML files, later ones over earlier ones, and single keys on the command line:",
        "`python pipelines/train.py configs/demo.yaml mine.yaml train.lr=0.001`. An unknown key is",
        "an error. Shapes are in voxels, z, y, x.",
    ]
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            lines += ["", f"## {name}", "", (kind.__doc__ or "").strip(), ""]
            rows = [row for row in described_keys() if row[0].startswith(f"{name}.")]
        else:
            if "## General" not in lines:
                lines += ["", "## General", ""]
            rows = [row for row in described_keys() if row[0] == name]
        if lines[-1] == "":
            lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key, type_name, default, meaning in rows:
            lines.append(f"| `{key}` | {type_name} | `{default}` | {meaning} |")
        if name == "prepare":
            lines += ["", f"Formats that are imported: {known_formats()}."]
    lines += ["", "## Images", "", "An image is a path or URL, or a mapping with more to say:", ""]
    lines += ["`raw: {path: volume.zarr/em, channel: 1}`. " + (ImageSource.__doc__ or ""), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, type_name, default, meaning in describe(ImageSource):
        lines.append(f"| `{key}` | {type_name} | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"


def table_page() -> str:
    """Return the page of the synapse table, with a row for each column."""
    rows = ["| column | unit | meaning |", "| --- | --- | --- |"]
    for field in schema_of(sides=True):
        unit, meaning = (field.metadata[k].decode() for k in (b"unit", b"meaning"))
        rows.append(f"| `{field.name}` | {unit} | {meaning} |")
    return _filled("table.md", rows)


def decoding_page() -> str:
    """Make the page of the decoding, with its stages as they are in `synpol.decoding.stages`."""
    rows = ["| stage | a job is | reads | leaves |", "| --- | --- | --- | --- |"]
    for stage in STAGES:
        name = stage.__name__.removesuffix("Stage").lower()
        rows.append(f"| `{name}` | {stage.job} | {stage.reads} | {stage.leaves} |")
    return _filled("decoding.md", rows)


def formats_page() -> str:
    """Make the page of formats, with the files that the tests read."""
    from input_files import all_files, files_table  # in benchmarks/

    pins = (HERE.parent / "constraints.txt").read_text().split()
    pinned = dict(line.split("==") for line in pins if "==" in line)
    packages = {file.writer.lower(): file.writer for file in all_files()}
    versions = [f"{name} {pinned[key]}" for key, name in packages.items() if key in pinned]
    return _filled("formats.md", [f"Versions: {', '.join(versions)}.", "", *files_table()])


def _filled(page: str, rows: list[str]) -> str:
    """Replace the generated part of a page that is written by hand."""
    before, _, rest = (HERE / page).read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + "\n".join([BEGIN, *rows, END]) + after


def synthetic_picture() -> None:
    """Draw easy tissue at 16 nm and hard tissue at 8 nm, without and with labels."""
    from synpol.datasets.synthetic import SyntheticVolume
    from synpol.report import figures

    columns = []
    for title, volume, size in (
        ("30 x 16 x 16 nm, difficulty 0", SyntheticVolume((30, 16, 16), 5, 0.0), 256),
        ("30 x 8 x 8 nm, difficulty 1", SyntheticVolume((30, 8, 8), 5, 1.0), 400),
    ):
        raw, labels = (a[6] for a in volume.region((0, 0, 0), (12, size, size)))
        columns += [(title, figures.grey(raw)), ("labels", figures.with_instances(raw, labels))]
    figures.panel(columns).savefig(HERE / "synthetic.png", dpi=80)


def polyadic_picture() -> None:
    """Draw insect synapses: T-bars and their thin posts, without and with labels."""
    from synpol.datasets.synthetic import SyntheticVolume
    from synpol.report import figures

    volume = SyntheticVolume((40, 8, 8), 5, polyadic=True)
    raw, labels = (a[0] for a in volume.region((7, 0, 0), (1, 400, 400)))
    columns = [
        ("40 x 8 x 8 nm, polyadic", figures.grey(raw)),
        ("labels: pre magenta, post cyan", figures.with_instances(raw, labels)),
    ]
    figures.panel(columns).savefig(HERE / "polyadic.png", dpi=80)


def flow_picture() -> None:
    """Draw the flow from image to connectome, from the demo or a small synthetic volume."""
    from flow import draw_flow, make_result

    with tempfile.TemporaryDirectory() as folder:
        there = (DEMO / "connectivity.graphml").exists()
        draw_flow(DEMO if there else make_result(Path(folder))).savefig(HERE / "flow.png", dpi=192)


def result_picture(run: Path = DEMO, z: int = 20) -> None:
    """Draw a section of the demo's held-out volume: image, prediction, instances, truth."""
    from synpol.images.image import open_image
    from synpol.report import figures

    names = ("raw", "instances", "truth")
    raw, instances, truth = (open_image(run / n).array[z, :200, :320] for n in names)
    polarity = open_image(run / "polarity").array[:, z, :200, :320]
    columns = [
        ("raw", figures.grey(raw)),
        ("prediction: pre magenta, post cyan", figures.with_polarity(raw, polarity)),
        ("instances", figures.with_instances(raw, instances)),
        ("truth", figures.with_instances(raw, truth)),
    ]
    figures.panel(columns, {2: instances}).savefig(HERE / "result.png", dpi=80)


def scene_picture(config: str = "configs/demo.yaml") -> None:
    """Let Chromium draw the demo's scene."""
    command = ["pipelines/view.py", config, "runs/demo/tuned.yaml", "view.port=0"]
    picture = HERE / "scene.png"
    subprocess.run([sys.executable, *command, "--screenshot", picture], check=True, cwd=HERE.parent)


def review_picture() -> None:
    """Let Chromium judge some synapses of a small synthetic volume on the page of the review."""
    from flow import make_result

    from synpol.scene.browser import browser

    with tempfile.TemporaryDirectory() as folder:
        make_result(Path(folder))
        command = [sys.executable, "pipelines/review.py", f"{folder}/flow.yaml", "--link"]
        with (
            browser((1500, 950)) as page,
            subprocess.Popen(
                [*command, "review.port=0"], stdout=subprocess.PIPE, text=True, cwd=HERE.parent
            ) as served,
        ):
            assert served.stdout is not None
            page.get(next(line for line in served.stdout if line.startswith("http")).strip())
            page.find_element("id", "reviewer").clear()
            body = page.find_element("tag name", "body")
            for key in " rrrrrrfrrnrrrrrr":
                body.send_keys(key.strip())
                time.sleep(2)
            page.save_screenshot(str(HERE / "review.png"))
            served.terminate()


PICTURES = {
    "synthetic": synthetic_picture,
    "polyadic": polyadic_picture,
    "flow": flow_picture,
    "result": result_picture,
    "scene": scene_picture,
    "review": review_picture,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", nargs="*", metavar="NAME", choices=PICTURES, default=None)
    named = parser.parse_args().pictures
    (HERE / "config.md").write_text(config_page())
    (HERE / "table.md").write_text(table_page())
    (HERE / "decoding.md").write_text(decoding_page())
    (HERE / "formats.md").write_text(formats_page())
    if named is not None:
        for name in named or PICTURES:
            PICTURES[name]()
