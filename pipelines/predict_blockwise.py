"""Predict the polarity of a volume of any size and decode it into synapses.

Writes polarity, instances and synapses.parquet into predict.output. Called again it finishes what
was interrupted and redoes what a changed config concerns. --only predict or --only decode does one
half; decoding alone needs no checkpoint and works on a polarity array made elsewhere. --dry-run
tells what would be done, and by which jobs. Workers run on this machine or, with an overlay such as
configs/slurm.yaml, as jobs of a cluster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import work_folder
from synpol.blockwise.schedulers import check_place
from synpol.command import record_run, run_command
from synpol.config import Config
from synpol.decoding.job import decode_blockwise
from synpol.decoding.target import Target, check_output
from synpol.files import is_url, join
from synpol.images.image import open_image
from synpol.polarity import Channels
from synpol.prediction.roi import VoxelRoi


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("predict", "decode"), help="do one half of the job")
    parser.add_argument(
        "--fresh", action="store_true", help="do all of it again, whatever was done before"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print stages, bytes, jobs and times; do nothing"
    )


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if given.only is None:  # what would stop the second half has to stop the first
        raw = open_image(config.need_image("predict.raw"), channels=0)
        shape = VoxelRoi.of(raw, config.predict.roi).shape
        blocks = BlockGrid.of(shape, config.decode.block_shape)
        check_output(output, Target.of(raw, blocks, config.decode.scale_factors), given.fresh)
    if given.dry_run:
        print(planned(config, output, given.only, given.fresh))
        return
    if given.only != "decode":
        predict(config, output, given.fresh)
    if given.only != "predict":
        decode(config, output, given.fresh)


def predict(config: Config, output: str, fresh: bool) -> None:
    from synpol.model.trained import find_checkpoint
    from synpol.prediction.job import PredictJob

    raw, checkpoint = config.need_image("predict.raw"), find_checkpoint(config)
    job = PredictJob.of(config, raw, output, checkpoint, fresh=fresh)
    if not fresh:
        job.refuse_other_region()
    print(f"{job.border_cost()}\nwith {job.network.title}", file=sys.stderr)
    job.run(fresh)


def planned(config: Config, output: str, only: str | None, fresh: bool) -> str:
    from synpol.plan import job_text, plan_decoding, plan_prediction, table

    settings, stages, jobs = config.workers, [], []
    check_place(settings, work_folder(output, settings.work_dir))
    if only != "decode":
        from synpol.model.trained import find_checkpoint
        from synpol.prediction.job import PredictJob

        job = PredictJob.of(
            config,
            config.need_image("predict.raw"),
            output,
            find_checkpoint(config),
            fresh=fresh,
        )
        stages.append(plan_prediction(job))
        jobs.append(f"{job.border_cost()}\nwith {job.network.title}")
        jobs.append("To predict: " + job_text(settings, job.num_workers, job.gpus))
        shape, dtype = job.roi.shape, np.dtype(np.uint8)
    else:
        polarity = open_image(join(output, "polarity"), channels=Channels.count)
        shape, dtype = index_of(polarity.shape_vx), polarity.array.dtype
    if only != "predict":
        stages += plan_decoding(shape, dtype, config)
        jobs.append("To decode: " + job_text(settings, settings.num_workers, 0))
    return "\n\n".join([table(stages), *jobs])


def decode(config: Config, output: str, fresh: bool) -> None:
    options = config.decode
    table = join(output, "synapses.parquet")
    has_table = not options.semantic and set(options.scale_factors) == {1}
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
        scale_factors=options.scale_factors,
        sides=options.sides,
        synapses=table if has_table else None,
        work_dir=config.workers.work_dir,
        fresh=fresh,
        workers=config.workers,
    )
    if not has_table and not is_url(output):
        Path(table).unlink(missing_ok=True)  # of an earlier result, which had one
    record_run(config, output, "predict")
    found = "" if decoded.synapses is None else f"{decoded.synapses} synapses in "
    print(f"{found}{decoded.instances}")


if __name__ == "__main__":
    run_command(main, __doc__, options=options)
