#!/usr/bin/env bash
# PyTorch: in bfloat16 on a CPU, conv3d returns wrong gradients of its weights for volumes of exactly two sections.
#
# The kernel is 3 x 3 x 3 with padding 1, channels are last in memory. The result and the gradient of the input are
# right, to bfloat16; the gradient of the weights is off by a factor between one and 10^37, or not finite, and differs
# from run to run. One section, three or more, and float32 are right. Gradient clipping hides it: the norm is
# huge, so each step is nearly nothing, and a network of thin patches just does not learn. With a third section of
# zeros, whose results are cut off, the gradient is right.
#
# What synpol does: just that, where a network learns in bfloat16 on a CPU (synpol/model/rsunet.py).
#
# Output seen with torch 2.15.0 on Python 3.12, Linux, x86-64 with AVX-512 bfloat16:
#> 1 section: right
#> 2 sections: wrong
#> 3 sections: right
#> 4 sections: right
#> 2 sections and one of zeros: right
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
from torch.nn.functional import conv3d, pad


def gradient(sections: int, dtype: torch.dtype, zeros: int = 0) -> torch.Tensor:
    """Of weights, for the same volumes and the same wish in any type."""
    torch.manual_seed(0)
    volumes = torch.randn(2, 8, sections, 8, 8).to(memory_format=torch.channels_last_3d)
    wish = torch.randn(2, 8, sections, 8, 8)
    weight = (torch.randn(8, 8, 3, 3, 3) / 10).requires_grad_()
    given = pad(volumes, (0, 0, 0, 0, 0, zeros)).to(dtype)
    result = conv3d(given, weight.to(dtype), padding=1)[:, :, :sections]
    result.backward(wish.to(dtype))
    return weight.grad


def tell(name: str, sections: int, zeros: int = 0) -> None:
    exact = gradient(sections, torch.float32)
    error = (gradient(sections, torch.bfloat16, zeros) - exact).abs().max() / exact.abs().max()
    print(f"{name}: {'right' if error < 0.05 else 'wrong'}")


for sections in (1, 2, 3, 4):
    tell(f"{sections} section{'s' * (sections > 1)}", sections)
tell("2 sections and one of zeros", 2, zeros=1)
END
venv/bin/python demo.py 2>/dev/null | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
