#!/usr/bin/env bash
# daisy: the markers of a tracking folder know the blocks, but neither the function nor its result.
#
# A task with a tracking folder writes a threshold into a file for each block. Run again with another
# threshold, and so with another function, all blocks are skipped: the files keep the old threshold, and
# `run_blockwise` returns True. Run again after the files were deleted, it returns True and there are no files.
#
# What synpol does: no tracking of daisy's. A block is done when its record is there, and records lie in a folder
# whose name is a hash of everything that the result depends on.
#
# Output seen with daisy 2.0.0 on Python 3.11 and 3.12, Linux:
#> threshold 0.5: True; files: 0.5 0.5 0.5
#> threshold 0.9: True; files: 0.5 0.5 0.5
#> files deleted, threshold 0.9: True; files: none
#> another folder, threshold 0.9: True; files: 0.9 0.9 0.9
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet "daisy==${VERSION:-2.0.0}"
venv/bin/pip list 2>/dev/null | grep '^daisy '
cat >demo.py <<'END'
from pathlib import Path

import daisy.v2 as daisy

results = Path("results")
results.mkdir()


def run(threshold: float, tracking: str) -> str:
    def write(block: daisy.Block) -> None:
        (results / str(block.write_roi.begin[0])).write_text(str(threshold))

    block = daisy.Roi((0,), (4,))
    total = daisy.Roi((0,), (12,))
    task = daisy.Task("write", total, block, block, write, max_workers=1, tracking_path=tracking)
    done = daisy.run_blockwise(task, progress=False, summary=False)
    files = " ".join(path.read_text() for path in sorted(results.iterdir()))
    return f"threshold {threshold}: {done}; files: {files or 'none'}"


print(run(0.5, "tracking"))
print(run(0.9, "tracking"))
for path in results.iterdir():
    path.unlink()
print("files deleted,", run(0.9, "tracking"))
print("another folder,", run(0.9, "tracking-of-0.9"))
END
venv/bin/python demo.py | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
