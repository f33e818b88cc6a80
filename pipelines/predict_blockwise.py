"""Predict the polarity of a volume of any size and decode it into synapses.

Writes polarity, instances and synapses.parquet into predict.output. Called again it finishes what
was interrupted and redoes what a changed config concerns. --only predict or --only decode does one
half; decoding alone needs no checkpoint and works on a polarity array made elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from synpol.arrays import is_url, join, open_image
from synpol.blockwise.decode import check_output, decode_blockwise
from synpol.blockwise.geometry import BlockGrid
from synpol.command import record_run, run_command
from synpol.config import Config


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("predict", "decode"), help="do one half of the job")
    parser.add_argument(
        "--fresh", action="store_true", help="do all of it again, whatever was done before"
    )


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if given.only is None:  # what would stop the second half has to stop the first
        shape = open_image(config.need("predict.raw"), channels=0).shape_vx
        check_output(output, shape, BlockGrid.of(shape, config.decode.block_shape))
    if given.only != "decode":
        predict(config, output, given.fresh)
    if given.only != "predict":
        decode(config, output, given.fresh)


def predict(config: Config, output: str, fresh: bool) -> None:
    from synpol.blockwise.predict import predict_blockwise
    from synpol.training.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(config)
    predict_blockwise(config, config.need("predict.raw"), output, checkpoint, fresh=fresh)


def decode(config: Config, output: str, fresh: bool) -> None:
    options = config.decode
    table = join(output, "synapses.parquet")
    decoded = decode_blockwise(
        join(output, "polarity"),
        output,
        block_shape=options.block_shape,
        num_workers=config.workers.num_workers,
        thres=options.thres,
        thres_small=options.thres_small,
        dilate_sz=options.dilate_sz,
        exclusive=config.exclusive,
        semantic=options.semantic,
        sides=options.sides,
        synapses=None if options.semantic else table,
        work_dir=config.workers.work_dir,
        fresh=fresh,
    )
    if options.semantic and not is_url(output):
        Path(table).unlink(missing_ok=True)  # of an earlier result, which had numbers
    record_run(config, output, "predict")
    found = "" if decoded.synapses is None else f"{decoded.synapses} synapses in "
    print(f"{found}{decoded.instances}")


if __name__ == "__main__":
    run_command(main, __doc__, options=options)
