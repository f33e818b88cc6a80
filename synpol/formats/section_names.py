"""Which files of a folder are sections, in which order, and which are missing.

Names of sections differ in one number. Everything else about names - two patterns, a gap, the same
number twice - is a mistake that would move sections to wrong places without a word, so it is
refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from synpol.errors import InputError
from synpol.formats.first_bytes import first_bytes
from synpol.formats.tiff import MARKS

#: first bytes of images that sections may be
KINDS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", **dict.fromkeys(MARKS, "TIFF")}
_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
#: what file managers leave behind
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}
#: missing sections that are named
_LISTED = 10
#: a row of numbers has at most this many for each one that is there
_SPARSE = 10


@dataclass(frozen=True)
class Sections:
    """Files of a folder in their order.

    Attributes
    ----------
    paths : tuple of (Path or None)
        File of each section, None where it is missing.
    missing : tuple of str
        Names that the missing files would have.
    """

    paths: tuple[Path | None, ...]
    missing: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """Files that are there."""
        return [path for path in self.paths if path is not None]


def kind_of(path: Path) -> str | None:
    """Return the format of an image by its first bytes, None for another file."""
    found = first_bytes(path, 4)
    return next((kind for mark, kind in KINDS.items() if found.startswith(mark)), None)


def images_in(folder: Path) -> list[Path]:
    """List the images in a folder, without hidden files and those of other kinds.

    Raises
    ------
    InputError
        A file has the ending of an image and is none.
    """
    images = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _CLUTTER or not path.is_file():
            continue
        if kind_of(path) is not None:
            images.append(path)
        elif path.suffix.lower() in _ENDINGS:
            raise InputError(
                f"{path} cannot be read as an image: it begins with the bytes "
                f"{first_bytes(path, 8).hex(' ') or '(none)'}; copy it again, or remove it if it "
                "is no section"
            )
    return images


def sections_of(folder: Path, pattern: str | None) -> Sections:
    """Find the sections in a folder.

    Parameters
    ----------
    folder : Path
    pattern : str, optional
        Shell pattern of their names, such as ``*_image.png``.

    Raises
    ------
    InputError
        There are none, or their order cannot be known.
    """
    images = images_in(folder)
    if pattern is not None:
        images = [path for path in images if fnmatchcase(path.name, pattern)]
    if not images:
        there = sorted(p.name for p in folder.iterdir())[:10]
        matching = f" whose names match `key: {pattern!r}`" if pattern else ""
        raise InputError(
            f"{folder} holds no PNG or TIFF sections, nor JPEG or BMP ones{matching}"
            + (f"; there is: {', '.join(there)}" if there else "; give another folder")
        )
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(re.sub(r"\d+", "#", path.name.lower()), []).append(path)
    if len(groups) > 1:
        raise InputError(_several_kinds(folder, groups))
    return _in_order(folder, images)


def _several_kinds(folder: Path, groups: dict[str, list[Path]]) -> str:
    most = max(groups, key=lambda name: len(groups[name]))
    shown = sorted(groups, key=lambda name: -len(groups[name]))[:5]
    found = ", ".join(f"{len(groups[name])} like {groups[name][0].name!r}" for name in shown)
    text = f"{folder} holds files with different kinds of names: {found}"
    if len(groups) > len(shown):
        text += f" and {len(groups) - len(shown)} more kinds"
    copies = [name for name in groups if "(#)" in name or "copy" in name.lower()]
    ways = []
    if copies and most not in copies:
        ways.append(f"remove copies such as {groups[copies[0]][0].name!r}")
    others = [path.name for name in groups if name != most for path in groups[name]]
    key = _pattern_of([path.name for path in groups[most]], most, others)
    if key is not None:
        ways.append(f"say which are the sections with `key`, for instance `key: '{key}'`")
    elif not ways:
        ways.append("move what is not wanted to another folder")
    return f"{text}; {', or '.join(ways)}"


def _pattern_of(names: list[str], kind: str, others: list[str]) -> str | None:
    """Return a pattern of all names of a kind and of no other name, if there is one."""
    plain = re.sub(r"[\[\]?*]", "?", kind).replace("#", "*")
    patterns = [plain]
    if len({len(name) for name in names}) == 1:
        patterns.append(re.sub(r"[\[\]?*\d]", "?", names[0]))
    fits = (p for p in patterns if not any(fnmatchcase(name, p) for name in others))
    return next(fits, None)


def _in_order(folder: Path, images: list[Path]) -> Sections:
    """Sort files whose names differ in numbers alone, and find gaps."""
    if len(images) == 1:
        return Sections(tuple(images), ())
    rows = [[int(n) for n in re.findall(r"\d+", path.name)] for path in images]
    columns = list(zip(*rows, strict=True))
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    counting = [place for place in varying if len(set(columns[place])) == len(images)]
    regular = [place for place in counting if _count(columns[place]) == len(images)]
    if regular:
        return _numbered(images, columns[regular[0]], regular[0])
    if len(varying) == 1 and not counting:
        (number, _), *_ = Counter(columns[varying[0]]).most_common(1)
        same = [p.name for p, n in zip(images, columns[varying[0]], strict=True) if n == number]
        raise InputError(
            f"{folder} holds section {number} twice, {' and '.join(same)}; remove one of them"
        )
    if len(varying) > 1 or _count(columns[varying[0]]) > _SPARSE * len(images):
        raise InputError(
            f"{folder} holds files whose names differ in several numbers, or in numbers that are "
            f"far apart, such as {images[0].name} and {images[-1].name}; one file for each section "
            "is expected: stitch tiles first, or rename the files so that the number of the "
            "section alone differs"
        )
    return _numbered(images, columns[varying[0]], varying[0])


def _numbered(images: list[Path], numbers: Sequence[int], place: int) -> Sections:
    """Put files in the order of the numbers that stand at a place in their names."""
    by_number = dict(zip(numbers, images, strict=True))
    row = range(min(numbers), max(numbers) + 1, _step(numbers))
    like = by_number[row[0]].name
    number = list(re.finditer(r"\d+", like))[place]
    width = len(number.group())
    missing = [
        f"{like[: number.start()]}{n:0{width}d}{like[number.end() :]}"
        for n in row
        if n not in by_number
    ]
    return Sections(tuple(by_number.get(n) for n in row), tuple(missing))


def _step(numbers: Sequence[int]) -> int:
    """Return the largest step of a row that has all numbers in it."""
    return math.gcd(*(n - min(numbers) for n in numbers))


def _count(numbers: Sequence[int]) -> int:
    """Return how many numbers the row from the first to the last has."""
    return (max(numbers) - min(numbers)) // _step(numbers) + 1


def gap_refusal(folder: Path, sections: Sections) -> InputError:
    """Say which sections are missing, and how to go on."""
    names = ", ".join(sections.missing[:_LISTED])
    more = len(sections.missing) - _LISTED
    return InputError(
        f"{folder} lacks {len(sections.missing)} of {len(sections.paths)} sections: {names}"
        + (f" and {more} more" if more > 0 else "")
        + "; add them, or set `fill_missing: true` to import zeros in their place"
    )
