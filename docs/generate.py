"""Write what is generated in docs/: config.md and table.md, from the models of both.

    python docs/generate.py [--pictures]

--pictures makes the pictures too; synthetic.png from the generator, result.png and scene.png from
runs/demo.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from synpol.command import described_keys
from synpol.config import Config, Section
from synpol.datasets.importers import known_formats
from synpol.synapses.table import schema_of

HERE = Path(__file__).parent
#: what is generated of a page that is written by hand
BEGIN, END = "<!-- made by docs/generate.py -->", "<!-- end -->"


def config_page() -> str:
    """Every key of a config, a table a section."""
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
    return "\n".join(lines) + "\n"


def table_page() -> str:
    """The page of the synapse table with its columns as they are."""
    rows = ["| column | unit | meaning |", "| --- | --- | --- |"]
    for field in schema_of(sides=True):
        unit, meaning = (field.metadata[k].decode() for k in (b"unit", b"meaning"))
        rows.append(f"| `{field.name}` | {unit} | {meaning} |")
    before, _, rest = (HERE / "table.md").read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + "\n".join([BEGIN, *rows, END]) + after


def synthetic_picture() -> None:
    """Easy tissue at the demo's voxel size and hard tissue at 8 nm, with and without labels."""
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


def result_picture(run: Path = Path("runs/demo/heldout"), z: int = 20) -> None:
    """A section of the demo's held-out volume: image, prediction, instances, truth."""
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
    """The demo's scene as Chromium draws it."""
    command = ["pipelines/view.py", config, "runs/demo/tuned.yaml", "view.port=0"]
    picture = HERE / "scene.png"
    subprocess.run([sys.executable, *command, "--screenshot", picture], check=True, cwd=HERE.parent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", action="store_true")
    (HERE / "config.md").write_text(config_page())
    (HERE / "table.md").write_text(table_page())
    if parser.parse_args().pictures:
        synthetic_picture()
        result_picture()
        scene_picture()
