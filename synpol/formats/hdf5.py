"""HDF5 files: of h5py, CREMI, ilastik, MATLAB 7.3, PyTorch Connectomics, BigDataViewer, Imaris."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.calibration import Calibration
from synpol.formats.first_bytes import first_bytes
from synpol.formats.hdf5_links import check_storage, find_dataset, volumes_in
from synpol.formats.hdf5_metadata import axis_names, calibration_of
from synpol.formats.hdf5_programs import bigdataviewer, imaris, matlab_axes

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: where a signature may begin: after a user block, whose size is a power of two
_PLACES = (0, 512, 1024, 2048, 4096, 8192)


@register
class Hdf5Stack(ArrayStack):
    """Read a dataset of an HDF5 file."""

    name = "HDF5"
    files = "HDF5 (.h5)"

    def __init__(self, path: Path, key: str | None) -> None:
        import h5py  # only this format needs them
        import hdf5plugin  # noqa: F401 it registers its filters

        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(
                f"{path} cannot be read as HDF5: {error}; if it was copied, copy it again"
            ) from None
        with ExitStack() as on_error:
            on_error.callback(self.file.close)
            self.data = find_dataset(self.file, path, key)
            self.what = f"{path}:{(self.data.name or '').strip('/')}"
            check_storage(self.data, path, self.what)
            self._arrange(path)
            on_error.pop_all()

    def _arrange(self, path: Path) -> None:
        """Find array and axes, for which some programs have ways of their own."""
        self._program = Calibration()
        self.array = self.data
        self.names = matlab_axes(self.data, path, self.what)
        if self.names is not None:
            self.read_as = "MATLAB's order of axes"
            return
        found = bigdataviewer(self.data, path) or imaris(self.data, self.what)
        if found is not None:
            self.array, self._program = found
            self.names = "zyx"
            self.read_as = "without a sign, without padding"
            return
        self.names = axis_names(self.data, self.what)
        if self.names is None and self.data.ndim < 3:
            raise InputError(
                f"{self.what} has the shape {self.data.shape}; (z, y, x) is expected: choose "
                "another dataset with `key`"
            )

    @classmethod
    def opens(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        found = first_bytes(path, _PLACES[-1] + len(_SIGNATURE))
        return any(found[p : p + len(_SIGNATURE)] == _SIGNATURE for p in _PLACES)

    @classmethod
    def keys(cls, path: Path) -> list[str]:
        import h5py

        with h5py.File(path, "r") as file:
            return volumes_in(file)

    def calibration(self) -> Calibration:
        found = calibration_of(self.data, self.layout, self.what)
        return self._program.joined(found, self.what)

    def close(self) -> None:
        self.file.close()
