"""Open the desk of a result that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synpol.blockwise.records import work_folder
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.image import Image
from synpol.review.candidates import below_threshold
from synpol.review.desk import Desk
from synpol.review.store import NAME, VerdictStore
from synpol.review.tiles import box_of

#: folder of the candidates below the threshold, in predict.output
CANDIDATES = "candidates"


def store_path(config: Config) -> Path:
    """Return the file of the verdicts.

    Raises
    ------
    InputError
        The result is not in a local folder.
    """
    output = config.need("predict.output")
    if config.review.verdicts is None and is_url(output):
        raise InputError(
            f"predict.output is {output}; verdicts are kept in a local file so far: name one in "
            "review.verdicts"
        )
    return Path(config.review.verdicts or join(output, NAME))


def open_desk(config: Config, store: VerdictStore, instances: Image) -> Desk:
    """Open the desk of a result, with its candidates where they are decoded.

    Parameters
    ----------
    config : Config
    store : VerdictStore
    instances : Image
        Label volume of the result.
    """
    settings, output = config.review, Path(config.need("predict.output"))
    table, lower = output / "synapses.parquet", output / CANDIDATES / "synapses.parquet"
    wanted = settings.thres is not None and lower.is_file()
    return Desk(
        store,
        table,
        np.array(instances.offset_nm, float),
        np.array(instances.end_nm, float),
        box_of(instances, settings.extent, settings.sections),
        settings,
        config.seed,
        below_threshold(table, lower) if wanted else None,
    )


def decode_candidates(config: Config) -> None:
    """Decode the prediction once more, with the lower threshold.

    Raises
    ------
    InputError
        There is no such threshold for this network, or it is not below that of the result.
    """
    from synpol.decoding.job import decode_blockwise  # imports networkx, which a page does not need

    output, chosen = config.need("predict.output"), config.decode
    if config.exclusive:
        raise InputError(
            "review.thres is given, but an exclusive network has no threshold; leave it out"
        )
    if config.review.thres is None or config.review.thres >= chosen.thres:
        raise InputError(
            f"review.thres is {config.review.thres}; less than decode.thres ({chosen.thres}) is "
            "expected"
        )
    folder = join(output, CANDIDATES)
    decode_blockwise(
        join(output, "polarity"),
        folder,
        block_shape=chosen.block_shape,
        num_workers=config.workers.num_workers,
        thres=config.review.thres,
        thres_small=chosen.thres_small,
        dilate_sz=chosen.dilate_sz,
        sides=chosen.sides,
        synapses=join(folder, "synapses.parquet"),
        work_dir=work_folder(output, config.workers.work_dir) / CANDIDATES,
        workers=config.workers,
    )


def quality_of(config: Config, instances: Image) -> Mapping[str, Any] | None:
    """Return what verdicts say about a result, for its report; None where there are none."""
    if config.review.verdicts is None and is_url(config.need("predict.output")):
        return None
    path = store_path(config)
    table = Path(config.need("predict.output")) / "synapses.parquet"
    if not path.is_file() or not table.is_file():
        return None
    with VerdictStore(path) as store:
        quality = open_desk(config, store, instances).quality()
    return quality if quality["verdicts"] else None
