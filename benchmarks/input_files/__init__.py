"""Files as the field's writers make them, and what each of them means.

All hold the same volume, with voxels of 40 x 8 x 4 nm. Where a writer cannot say the size, the
config does. The tests, the table of docs/formats.md and benchmarks/inputs.py read this list.
"""

from __future__ import annotations

from collections.abc import Iterator

from .arrays import array_files
from .chunked import chunked_files
from .file import File
from .hdf5 import hdf5_files
from .headers import header_files
from .sections import section_files
from .tiff import tiff_files

__all__ = ["File", "all_files", "files_table"]


def all_files() -> Iterator[File]:
    """List the files of all writers."""
    for files in (
        array_files,
        chunked_files,
        hdf5_files,
        tiff_files,
        section_files,
        header_files,
    ):
        yield from files()


def files_table() -> list[str]:
    """Return the rows of the table of files for the docs."""
    rows = [
        "| format | writer | file | opens | taken from the file | keys needed | remark |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for file in all_files():
        keys = ", ".join(
            f"`{key}: {_shown(value)}`"
            for key, value in file.keys.items()
            if key != "kind" or not file.in_place  # a key of imports alone
        )
        cells = (file.format, file.writer, file.about, file.opens, file.taken, keys, file.remark)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _shown(value: object) -> str:
    """Write a value as a config has it."""
    if isinstance(value, list):
        return f"[{', '.join(f'{v:g}' for v in value)}]"
    return str(value)
