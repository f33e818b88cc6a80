"""MRC and CCP4 files, of IMOD and SerialEM for instance."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.calibration import Calibration, rounded
from synpol.formats.first_bytes import compression_of, unpacked_first_bytes
from synpol.formats.plain import PlainArray

_HEADER = 1024
_MARK_AT = 208
#: where the header says how many bytes lie between it and the voxels
_EXTENDED = slice(92, 96)
#: where IMOD writes its own mark, and flags of which the first says that bytes have a sign
_IMOD_AT, _IMOD = 152, b"DOMI"
_STACKS_OF_VOLUMES = 401

logger = logging.getLogger(__name__)


@register
class MrcStack(ArrayStack):
    """Read an MRC file."""

    name = "MRC"
    files = "MRC (.mrc)"

    array: PlainArray

    def __init__(self, path: Path, key: str | None) -> None:
        import mrcfile  # for this format alone

        self.what = str(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of details in headers of other programs
            self.header: Any = _header_of(path)
            self._check()
            header = self.header
            dtype = mrcfile.utils.dtype_from_mode(header.mode).newbyteorder(
                header.mode.dtype.byteorder
            )
            begin = _HEADER + int(header.nsymbt)
            if dtype == np.int8 and _has_unsigned_bytes(path):
                dtype, self.read_as = np.dtype(np.uint8), "bytes without a sign"
            shape = (int(header.nz), int(header.ny), int(header.nx))
            self.array = PlainArray(path, begin, shape, dtype, compression_of(path))
        self.names = ["xyz"[axis - 1] for axis in self._order()]

    def _check(self) -> None:
        header = self.header
        if int(header.ispg) >= _STACKS_OF_VOLUMES:
            raise InputError(
                f"{self.what} is a stack of volumes; save the volume that is meant by itself "
                "(in IMOD newstack)"
            )
        if min(int(header.nx), int(header.ny), int(header.nz)) < 1:
            raise InputError(f"{self.what} has no voxels; copy it again")
        if int(header.nsymbt) < 0:
            raise InputError(
                f"{self.what} says that {int(header.nsymbt)} bytes lie between its header and its "
                "voxels; copy it again"
            )

    def _order(self) -> list[int]:
        """Number of the axis (1 x, 2 y, 3 z) along sections, rows and columns."""
        order = [int(self.header[name]) for name in ("maps", "mapr", "mapc")]
        return order if sorted(order) == [1, 2, 3] else [3, 2, 1]

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_file() and unpacked_first_bytes(path)[_MARK_AT : _MARK_AT + 3] == b"MAP"

    def close(self) -> None:
        self.array.close()

    def calibration(self) -> Calibration:
        header = self.header
        sizes = [
            rounded(float(header.cella[axis]) / max(1, int(header[f"m{axis}"]))) for axis in "zyx"
        ]
        if sizes == [1.0, 1.0, 1.0]:  # what is written where nobody set a scale
            return Calibration()
        origin = [float(header.origin[axis]) for axis in "xyz"]
        if any(origin):
            logger.warning(
                "%s: its header says the origin %s Angstrom (x, y, z), whose sign differs between "
                "programs, so it is passed over; `offset` in the config places the volume",
                self.what,
                origin,
            )
        return Calibration.of(sizes, "angstrom", "its header, cell size")


def _header_of(path: Path) -> Any:
    """Read the header alone: mrcfile makes room for any extended header that a file claims."""
    from mrcfile.mrcinterpreter import MrcInterpreter

    content = bytearray(unpacked_first_bytes(path)[:_HEADER])
    claimed = content[_EXTENDED]
    content[_EXTENDED] = bytes(len(claimed))
    with MrcInterpreter(io.BytesIO(content), permissive=True, header_only=True) as file:
        header = file.header.copy()
    header.nsymbt = np.frombuffer(claimed, header.nsymbt.dtype)[0]
    return header


def _has_unsigned_bytes(path: Path) -> bool:
    """Whether IMOD wrote bytes without a sign."""
    found = unpacked_first_bytes(path)
    mark, flags = found[_IMOD_AT : _IMOD_AT + 4], found[_IMOD_AT + 4 : _IMOD_AT + 8]
    if mark == _IMOD:
        return not flags[0] & 1
    return mark == _IMOD[::-1] and not flags[3] & 1
