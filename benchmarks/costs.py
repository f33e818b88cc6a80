"""What a volume costs: hours and money of its prediction and decoding, from measured rates.

    python benchmarks/costs.py --cores N --predict MVOXEL_PER_S --decode MVOXEL_PER_S
                               [--price PER_HOUR] [--voxel NM NM NM] [--json FILE]

Rates are those of a machine with `--cores` cores, as `benchmarks/predict.py` and
`benchmarks/decode.py` print them; `--price` is that of the whole machine for an hour. Time a voxel
does not grow with the volume, so hours are voxels through rate; waiting for a queue is not in them.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

from figures import tell

#: name: (z, y, x) extent in nm
VOLUMES = {
    "100 um cube": (1e5, 1e5, 1e5),
    "1 mm x 1 mm x 100 um": (1e5, 1e6, 1e6),
    "1 mm cube": (1e6, 1e6, 1e6),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, required=True, help="of the machine measured")
    parser.add_argument("--predict", type=float, required=True, help="million voxels a second")
    parser.add_argument("--decode", type=float, required=True, help="million voxels a second")
    parser.add_argument("--price", type=float, help="of the machine for an hour")
    parser.add_argument("--voxel", type=float, nargs=3, default=(30, 8, 8), help="nm, z y x")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    rates = {"predict": given.predict, "decode": given.decode}
    size = " x ".join(f"{v:g}" for v in given.voxel)
    print(f"\npython {shlex.join(sys.argv)}")
    print(f"voxels of {size} nm; a machine of {given.cores} cores")
    print(
        f"{'volume':<22} {'Gvoxel':>9}  {'stage':<8} {'machine h':>11} {'core h':>11} {'price':>11}"
    )
    figures = {}
    for name, extent in VOLUMES.items():
        voxels = math.prod(extent) / math.prod(given.voxel)
        for stage, rate in rates.items():
            hours = voxels / (rate * 1e6) / 3600
            price = hours * given.price if given.price is not None else math.nan
            print(
                f"{name:<22} {voxels / 1e9:9,.0f}  {stage:<8} {hours:11,.1f} "
                f"{hours * given.cores:11,.0f} {price:11,.2f}"
            )
            figures[f"core_hours_{stage}_{name.replace(' ', '_')}"] = hours * given.cores
    tell(figures, given.json, ",.1f")


if __name__ == "__main__":
    main()
