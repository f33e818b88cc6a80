"""The one list of stages: what the job runs, the plan shows, and the hash reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synpol.blockwise.grid import BlockGrid
from synpol.config import load_config
from synpol.decoding.rescale import rescaled_blocks
from synpol.decoding.stages import STAGES, DecodeOptions, decoding_stages
from synpol.plan import plan_decoding


def listed(shape=(64, 64, 64), block=(8, 32, 32), resized=None):
    blocks = BlockGrid.of(shape, block)
    return decoding_stages(
        prediction="polarity/s0",
        dtype=np.dtype(np.uint8),
        output="out",
        folder=Path("work/decode"),
        blocks=blocks,
        target=blocks if resized is None else rescaled_blocks(blocks, resized),
        options=DecodeOptions(blocks.block),
    )


def test_stages_follow_each_other_up_the_tree_of_groups_and_down_again():
    names = [stage.name for stage in listed()]
    assert names == [
        "label",
        "dilate",
        "merge 1",
        "merge 2",
        "number",
        "resolve 2",
        "resolve 1",
        "relabel",
    ]


def test_every_kind_of_stage_is_in_the_hash_and_in_the_list():
    stages = listed(resized=(64, 32, 32))
    assert list(dict.fromkeys(type(stage) for stage in stages)) == list(STAGES)


def test_a_single_block_needs_no_groups():
    assert [stage.name for stage in listed(block=(64, 64, 64))] == [
        "label",
        "dilate",
        "number",
        "relabel",
    ]


def test_no_two_stages_share_a_folder_of_records():
    folders = [stage.folder for stage in listed(resized=(64, 32, 32))]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("scale_factors", [(1, 1, 1), (1, 0.5, 0.5)])
def test_the_plan_has_the_stages_of_the_list(tmp_path, scale_factors):
    config = load_config(
        [
            f"run_dir={tmp_path}",
            "decode.block_shape=[8,32,32]",
            f"decode.scale_factors={list(scale_factors)}",
        ]
    )
    resized = None if scale_factors == (1, 1, 1) else (64, 32, 32)
    planned = plan_decoding((64, 64, 64), np.dtype(np.uint8), config)
    stages = listed(resized=resized)
    assert [row.name for row in planned] == [stage.name for stage in stages]
    assert [row.blocks for row in planned] == [stage.count for stage in stages]
    assert all(row.seconds > 0 for row in planned)
    assert planned[0].read == 3 * 64**3
    assert planned[-1].written == 8 * np.prod(resized or (64, 64, 64))
