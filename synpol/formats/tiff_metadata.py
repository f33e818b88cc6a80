"""What the tags of a TIFF file say: whether it is whole, and the voxel size."""

from __future__ import annotations

import logging
import struct
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synpol.errors import InputError
from synpol.formats.calibration import Calibration, nanometers, rounded

if TYPE_CHECKING:
    import tifffile

#: nm in one unit of the tag ResolutionUnit
_INCH, _CENTIMETER = 25.4e6, 1e7
_UNITS = {2: _INCH, 3: _CENTIMETER}
#: pixels above this many nm are those of a printer or screen (2540 dots per inch are 10 um)
_PRINTED = 9_000


@contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """Refuse a file about which tifffile logs an error, since it goes on without what it lacks.

    Raises
    ------
    InputError
    """
    errors: list[str] = []
    thread = threading.get_ident()

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                errors.append(record.getMessage())

    logger, handler = logging.getLogger("tifffile"), Errors(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if errors:
        raise InputError(
            f"{path} is cut or damaged: {errors[0]}; copy it again, or open it in Fiji and save it "
            "anew"
        )


def check_whole(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file of which pages, or the end of their data, are missing.

    Raises
    ------
    InputError
    """
    pages = list(file.pages)
    size = path.stat().st_size
    following = _next_page(file, pages[-1].offset)
    if following is None or following:
        raise InputError(
            f"{path} is cut: {len(pages)} pages are there, and the next one would begin at byte "
            f"{following}, but the file has {size} bytes; the copy is incomplete, copy it again"
        )
    for number, page in enumerate(pages):
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if max(ends, default=0) > size:
            raise InputError(
                f"{path} is cut: page {number} ends at byte {max(ends)}, but the file has {size} "
                "bytes; the copy is incomplete, copy it again"
            )
        if not page.dataoffsets or 0 in page.dataoffsets or 0 in page.databytecounts:
            raise InputError(
                f"{path} is damaged or incomplete: page {number} lacks data; write it again with "
                "all of its data"
            )
    about = file.imagej_metadata if file.is_imagej else None
    images = int((about or {}).get("images", 1))
    if 1 < len(pages) < images:
        raise InputError(
            f"{path} is cut: it has {len(pages)} pages, but ImageJ wrote {images}; the copy is "
            "incomplete, copy it again"
        )


def _next_page(file: tifffile.TiffFile, offset: int) -> int | None:
    """Return where the page after a page begins: 0 after the last one, None if it is cut off."""
    tiff, handle = file.tiff, file.filehandle
    try:
        handle.seek(offset)
        (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
        (following,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
    except struct.error:
        return None
    return int(following)


def calibration_of(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Calibration:
    """Return what OME metadata, ImageJ's, those of a microscope, or the tags say."""
    if file.is_ome:
        return _ome(file, series)
    page = series.keyframe
    if file.is_imagej:
        return _imagej(file.imagej_metadata or {}, page)
    microscope = _microscope(file)
    if microscope is not None:
        return microscope
    unit = _UNITS.get(int(_tag(page, "ResolutionUnit") or 1))
    if unit is None:
        return Calibration()
    y, x = (_pixel(page, axis, unit) for axis in "YX")
    if any(v is not None and v > _PRINTED for v in (y, x)):
        return Calibration()
    return Calibration.of((None, y, x), "nm", "its resolution tags")


def _ome(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Calibration:
    root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    images = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    number = next((i for i, s in enumerate(file.series) if s is series), 0)
    if number >= len(images):
        return Calibration()
    about = images[number].attrib
    sizes: list[float | None] = []
    for axis in "ZYX":
        size = about.get(f"PhysicalSize{axis}")
        factor = nanometers(about.get(f"PhysicalSize{axis}Unit", "um"))
        sizes.append(None if size is None or factor is None else rounded(float(size) * factor))
    return Calibration.of(sizes, "nm", "its OME metadata, PhysicalSize")


def _imagej(about: Mapping[str, Any], page: tifffile.TiffPage) -> Calibration:
    unit = str(about.get("unit", "")).replace("\\u00B5", "µ")  # as ImageJ writes it
    factor = {"inch": _INCH}.get(unit) or nanometers(unit)
    if factor is None:
        return Calibration()
    y, x = (_pixel(page, axis, factor) for axis in "YX")
    spacing = about.get("spacing")
    z = None if spacing is None else rounded(abs(float(spacing)) * factor)
    if any(v is not None and v > _PRINTED for v in (y, x)):
        return Calibration()
    # one pixel a unit is what is written where nobody set a scale
    y, x = (None if v == factor else v for v in (y, x))
    return Calibration.of((z, y, x), "nm", "its ImageJ properties")


def _microscope(file: tifffile.TiffFile) -> Calibration | None:
    """Return the pixel size that a FEI or Zeiss electron microscope wrote."""
    if file.is_fei:
        scan = (file.fei_metadata or {}).get("Scan", {})
        sizes = [scan.get(f"Pixel{side}") for side in ("Height", "Width")]
        y, x = (rounded(float(v) * 1e9) if v else None for v in sizes)
        return Calibration.of((None, y, x), "nm", "its FEI metadata")
    if file.is_sem:
        found = (file.sem_metadata or {}).get("ap_image_pixel_size")
        if found is not None and len(found) == 3 and nanometers(str(found[2])):
            size = rounded(float(found[1]) * (nanometers(str(found[2])) or 1))
            return Calibration.of((None, size, size), "nm", "its Zeiss metadata")
    return None


def _pixel(page: tifffile.TiffPage, axis: str, unit: float) -> float | None:
    """Return the size of a pixel in nm by its resolution tag, pixels in a unit of so many nm."""
    value = _tag(page, f"{axis}Resolution")
    if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
        return None
    return rounded(value[1] / value[0] * unit)


def _tag(page: tifffile.TiffPage, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value
