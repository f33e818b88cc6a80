"""A decoding with real workers, to be killed: ``fault_job.py PREDICTION OUTPUT [KEY=VALUE]``."""

import ast
import sys

import synpol
from synpol.blockwise import stage

if __name__ == "__main__":
    stage.DRIVER_VOXELS = 2**19  # label and relabel go to workers, small stages stay here
    options = {"thres_small": 60, "block_shape": (8, 48, 48)}
    for change in sys.argv[3:]:
        key, _, value = change.partition("=")
        options[key] = ast.literal_eval(value)
    output = sys.argv[2]
    synpol.decode_blockwise(
        sys.argv[1], output, num_workers=2, synapses=f"{output}/synapses.parquet", **options
    )
