#!/usr/bin/env bash
# PyTorch: a batch of one volume in float32 is convolved without oneDNN, by a rule that does not count columns.
#
# On a CPU, conv3d asks oneDNN, unless the batch has one volume whose channels x sections x rows are at most 20480; the
# kernel of that case (slow_conv3d) is several times slower, in training by a factor of four. Columns do not count: a
# volume of 48 x 480 pixels a section is slow, one of 480 x 48 is not. Small 3D networks on patches of a few
# hundred thousand voxels meet this at every level, and only with a batch of one. The two kernels round differently,
# so a window predicted alone differs from the same window among others.
#
# What synpol does: its convolutions call oneDNN for a single volume too (synpol/model/rsunet.py).
#
# Output seen with torch 2.15.0 on Python 3.12, Linux, x86-64:
#> 1 volume of 16 x 12 x 48 x 48: aten::slow_conv3d_forward
#> 2 volumes of 16 x 12 x 48 x 48: aten::mkldnn_convolution
#> 1 volume of 16 x 12 x 48 x 480: aten::slow_conv3d_forward
#> 1 volume of 16 x 12 x 480 x 48: aten::mkldnn_convolution
#> 1 volume of 16 x 12 x 106 x 48: aten::slow_conv3d_forward
#> 1 volume of 16 x 12 x 107 x 48: aten::mkldnn_convolution
#> the same volume alone and beside another: other bits
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet numpy "torch==${VERSION:-2.15.0}"
venv/bin/pip list 2>/dev/null | grep '^torch '
cat >demo.py <<'END'
import torch
from torch.profiler import profile

torch.manual_seed(0)
kernels = {"aten::slow_conv3d_forward", "aten::mkldnn_convolution"}
convolution = torch.nn.Conv3d(16, 16, 3, padding=1)


@torch.no_grad()
def tell(volumes: int, *size: int) -> None:
    batch = torch.rand(volumes, *size)
    with profile() as seen:
        convolution(batch)
    name = " ".join(sorted(kernels & {event.key for event in seen.key_averages()}))
    print(f"{volumes} volume{'s' * (volumes > 1)} of {' x '.join(map(str, size))}: {name}")


tell(1, 16, 12, 48, 48)
tell(2, 16, 12, 48, 48)
for rows, columns in [(48, 480), (480, 48), (106, 48), (107, 48)]:
    tell(1, 16, 12, rows, columns)
with torch.no_grad():
    pair = torch.rand(2, 16, 12, 48, 48)
    same = torch.equal(convolution(pair)[:1], convolution(pair[:1]))
print("the same volume alone and beside another:", "same bits" if same else "other bits")
END
venv/bin/python demo.py 2>/dev/null | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
