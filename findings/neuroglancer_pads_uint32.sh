#!/usr/bin/env bash
# neuroglancer (Python): two uint32 properties of an annotation are written, and expected, with gaps between them.
#
# In the precomputed format all values of four bytes follow each other without gaps (annotations.md, "Single annotation
# encoding"), so a point with two of them takes 12 + 8 = 20 bytes. With int32 the writer keeps to that. With uint32
# it aligns to multiples of 3 bytes: the second value begins two bytes late, and the point takes 24 bytes. The reader
# expects the same, so it reads what the writer wrote, but raises ValueError for a file without gaps.
#
# What synpol does: it stores counts as int32 (scene/annotations.py).
#
# Output seen with neuroglancer 2.41.2 and tensorstore 0.1.86 on Python 3.11 and 3.12, Linux:
#> int32: 20 bytes: 0000803f 00000040 00004040 01000000 02000000
#> uint32: 24 bytes: 0000803f 00000040 00004040 01000000 00000200 00000000
#> the 20 bytes, read as int32: 1 2
#> the 20 bytes, read as uint32: ValueError: buffer is smaller than requested size
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet "neuroglancer==${VERSION:-2.41.2}" "tensorstore==0.1.86"
venv/bin/pip list 2>/dev/null | grep -E '^(neuroglancer|numpy|tensorstore) '
cat >demo.py <<'END'
import shutil
from pathlib import Path

from neuroglancer import AnnotationPropertySpec, CoordinateSpace
from neuroglancer.read_precomputed_annotations import AnnotationReader
from neuroglancer.write_annotations import AnnotationWriter

space = CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[1, 1, 1])


def write(kind: str) -> Path:
    properties = [AnnotationPropertySpec(id=name, type=kind) for name in ("first", "second")]
    writer = AnnotationWriter(space, "point", properties=properties)
    writer.add_point((1, 2, 3), id=7, first=1, second=2)
    folder = Path(kind).absolute()
    writer.write(folder)
    encoded = (folder / "by_id" / "7").read_bytes()
    print(f"{kind}: {len(encoded)} bytes: {encoded.hex(' ', 4)}")
    return folder


def read(folder: Path) -> str:
    try:
        point = AnnotationReader(f"file://{folder}").by_id[7]
        return " ".join(str(int(value)) for value in point.props)
    except ValueError as error:
        return f"ValueError: {error}"


signed, unsigned = write("int32"), write("uint32")
print("the 20 bytes, read as int32:", read(signed))
shutil.copy(signed / "by_id" / "7", unsigned / "by_id" / "7")  # 1 and 2 are the same in both
print("the 20 bytes, read as uint32:", read(unsigned))
END
venv/bin/python demo.py | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
