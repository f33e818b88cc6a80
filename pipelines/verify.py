"""Check that a finished result is whole and that its files belong together.

Reads every chunk of polarity and instances in predict.output, and of their coarser levels, and
compares: checksums, the sizes that were noted when the files were written, the synapse table with
the instances, and the tables of neurons with each other and with the synapse table. Writes
verify.json into predict.output. Exit code 0 means that all is right; 2 that something is not, and
each damaged file is named with the command that makes it right.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synpol.blockwise.records import work_folder
from synpol.blockwise.run import run_stage
from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url, join, write_json
from synpol.images.claim import SETTINGS, check_complete
from synpol.images.image import Image, open_image
from synpol.images.nodes import opened_array
from synpol.polarity import Channels
from synpol.verification.arrays import (
    ArrayCheck,
    Labels,
    Records,
    records_of_instances,
    records_of_polarity,
)
from synpol.verification.problem import Commands, Problem
from synpol.verification.stage import ReadStage
from synpol.verification.tables import CONNECTED, ConnectionCheck, check_synapses


def main(config: Config, given: argparse.Namespace) -> None:
    output, commands = config.need("predict.output"), Commands(given.config)
    work = work_folder(output, config.workers.work_dir)

    records_of_check: list[Path] = []

    def run(stage: ReadStage) -> ReadStage:
        stage = run_stage(
            stage, work, num_workers=config.workers.num_workers, workers=config.workers
        )
        records_of_check.append(stage.folder)
        return stage

    problems: list[Problem] = []
    notes: list[str] = []
    checked: list[str] = []
    labels: Labels | None = None
    settings: Any = None
    for half, name in (("predict", "polarity"), ("decode", "instances")):
        path, channels = join(output, name), Channels.count if half == "predict" else 0
        if half == "predict" and not is_there(path):
            notes.append(f"there is no {path}")
            continue
        redo = commands.run("predict_blockwise", "--only", half)
        try:
            image = open_image(path, channels=channels)
            check_complete(image)
        except InputError as error:
            problems.append(Problem(path, str(error), redo))
            continue
        records = records_for(half, image, output, work)
        if records is None or not records.know_sizes():
            notes.append(
                f"{path}: the work folder {work} does not say how large its files were, so a "
                "missing chunk looks like zeros"
            )
        check = ArrayCheck(image=image, half=half, records=records, commands=commands, run=run)
        found, counted = check.check()
        problems += found
        if half == "decode":
            labels, settings = None if found else counted, image.array.attrs.get(SETTINGS)
        if not found:  # levels of what is damaged would be named too
            problems += check.check_levels()
        checked.append(image.path)
    if is_url(output):
        notes.append("predict.output is remote; tables were not checked")
    else:
        problems += check_tables(Path(output), labels, settings, commands, checked)
    folder = work if is_url(output) else Path(output)
    about = {
        "right": not problems,
        "checked": checked,
        "not_checked": notes,
        "problems": [asdict(problem) for problem in problems],
    }
    write_json(folder / "verify.json", about)
    for used in records_of_check:  # the next check reads everything again
        shutil.rmtree(used)
    for note in notes:
        print(f"not checked: {note}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"not right in {output} ({len(problems)}):\n{listed}")
    print(f"all is right: {', '.join(checked)}\n{folder / 'verify.json'}")


def is_there(path: str) -> bool:
    """Whether there is an image, or what is left of one."""
    return Path(path).exists() if not is_url(path) else opened_array(join(path, "s0")) is not None


def records_for(half: str, image: Image, output: str, work: Path) -> Records | None:
    """The records of the blocks of an image."""
    if half == "predict":
        return records_of_polarity(image, output, work)
    return records_of_instances(image, output, work)


def check_tables(
    folder: Path, labels: Labels | None, settings: Any, commands: Commands, checked: list[str]
) -> list[Problem]:
    """Check the synapse table against the instances, and the tables of neurons against it."""
    table, problems = folder / "synapses.parquet", []
    expected = isinstance(settings, dict) and not settings.get("semantic")
    if table.exists() or expected:
        sides = not isinstance(settings, dict) or bool(settings.get("sides", True))
        redo = commands.run("predict_blockwise", "--only", "decode")
        factors = settings.get("scale_factors", (1, 1, 1)) if expected else (1, 1, 1)
        if set(factors) == {1}:
            problems += check_synapses(table, labels, sides, redo)
            checked.append(str(table))
    right = table if table.exists() and not problems else None
    problems += ConnectionCheck(folder, commands, right).check()
    tables = (folder / f"{name}.parquet" for name in CONNECTED)
    checked += [str(table) for table in tables if table.exists()]
    return problems


if __name__ == "__main__":
    run_command(main, __doc__)
