#!/usr/bin/env bash
# iohub: opening one image changes how zarr-python reads every array of the process, and some cannot be read any more.
#
# A Zarr v2 array of big-endian numbers is read with zarr-python. Then an OME-Zarr image is opened and written with
# iohub, which has nothing to do with that array. From then on zarr's configuration names another codec pipeline (that of
# the package zarrs), for the whole process, and the same array raises an error. Importing iohub alone does not change it.
#
# What synpol does: nothing of it imports iohub; the test that writes a file with iohub puts the configuration back.
#
# Output seen with iohub 0.3.11, zarr 3.4.2 and zarrs 0.2.3 on Python 3.12, Linux:
#> at first: BatchedCodecPipeline, [0, 1, 2, 3, 4, 5]
#> iohub imported: BatchedCodecPipeline, [0, 1, 2, 3, 4, 5]
#> one image written: ZarrsCodecPipeline, RuntimeError
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet "iohub==${VERSION:-0.3.11}" "zarr==3.4.2" "zarrs==0.2.3"
venv/bin/pip list 2>/dev/null | grep -E '^(iohub|zarr|zarrs) '
cat >demo.py <<'END'
import warnings

import numpy as np
import zarr

warnings.simplefilter("ignore")
zarr.create_array("big-endian", data=np.arange(6, dtype=">u2"), chunks=(3,), zarr_format=2)


def show(when: str) -> None:
    pipeline = zarr.config.get("codec_pipeline.path").rpartition(".")[2]
    try:
        found = zarr.open_array("big-endian", mode="r")[:].tolist()
    except Exception as error:
        found = type(error).__name__
    print(f"{when}: {pipeline}, {found}")


show("at first")
from iohub.ngff import open_ome_zarr  # noqa: E402

show("iohub imported")
with open_ome_zarr("other", layout="fov", mode="w", channel_names=["em"], version="0.5") as image:
    image["0"] = np.zeros((1, 1, 2, 4, 4), np.uint8)
show("one image written")
END
venv/bin/python demo.py | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
