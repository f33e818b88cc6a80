"""What lies where an image is to be written: finished, to go on with, to replace, or not ours."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from synpol.errors import InputError
from synpol.images.claim import (
    COMPLETE,
    HASH,
    ID,
    SETTINGS,
    Answer,
    Claim,
    begun,
    check_complete,
    claim_array,
    claim_image,
    half_made,
    is_ours,
)
from synpol.images.image import Image, open_image
from synpol.images.writing import complete, create_image, create_level


def create(folder: Path, digest: str | None, overwrite: bool = False) -> Image:
    """An image with the hash; without one it is of somebody else."""
    return create_image(
        folder,
        "raw",
        shape=(4, 6, 5),
        dtype=np.uint8,
        voxel_size=(30, 16, 16),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(2, 6, 5),
        attributes=None if digest is None else begun(digest),
        overwrite=overwrite,
    )


def claim(folder: Path, digest: str = "mine", **more) -> Claim:
    return claim_image(str(folder / "raw"), digest, **more)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_nothing_there_is_made_anew(tmp_path):
    assert claim(tmp_path) == Claim(Answer.ANEW, None)
    assert files(tmp_path) == []
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "zarr.0123456789abcdef.partial").touch()  # a kill left that
    assert claim(tmp_path) == Claim(Answer.ANEW, None)


def test_the_begun_array_of_the_same_job_is_gone_on_with_and_a_finished_one_is_finished(tmp_path):
    image = create(tmp_path, "mine")
    assert claim(tmp_path).answer is Answer.RESUME
    complete(image)
    assert claim(tmp_path).answer is Answer.FINISHED
    assert claim(tmp_path).found.path == image.path


@pytest.mark.parametrize("finished", [False, True])
def test_another_hash_and_a_fresh_start_make_it_anew(tmp_path, finished):
    image = create(tmp_path, "mine")
    if finished:
        complete(image)
    for found in (claim(tmp_path, "another"), claim(tmp_path, fresh=True)):
        assert found.answer is Answer.ANEW
        assert found.found.path == image.path  # it has to be replaced


def test_what_was_interrupted_before_the_array_was_there_is_made_anew(tmp_path):
    shutil.rmtree(create(tmp_path, "mine").path)
    assert half_made(str(tmp_path / "raw"))
    assert claim(tmp_path) == Claim(Answer.ANEW, None)
    assert is_ours(create(tmp_path, "mine").array)


@pytest.mark.parametrize("fresh", [False, True])
def test_an_array_of_others_is_refused_with_its_path_and_what_to_do(tmp_path, fresh):
    image = create(tmp_path, None)
    image.array[:] = 7
    with pytest.raises(InputError, match=rf"{image.path} exists and was not .*; sell it"):
        claim(tmp_path, fresh=fresh, advice="sell it")
    assert (open_image(image.path).array[:] == 7).all()


def test_an_array_of_others_may_be_replaced_while_it_is_empty_where_that_is_said(tmp_path):
    image = create(tmp_path, None)
    with pytest.raises(InputError, match="was not written by synpol"):
        claim(tmp_path)
    found = claim(tmp_path, replace_empty=True)
    assert (found.answer, found.found.path) == (Answer.ANEW, image.path)
    image.array[0, 0, 0] = 7
    with pytest.raises(InputError, match="data that synpol did not write"):
        claim(tmp_path, replace_empty=True)


@pytest.mark.parametrize("replace_empty", [False, True])
@pytest.mark.parametrize("kind", ["file", "files", "array", "group", "image", "bare"])
def test_whatever_else_lies_there_is_refused_and_stays(tmp_path, kind, replace_empty):
    place = tmp_path / "raw"
    if kind == "file":
        place.write_text("years of work")
    elif kind == "files":
        place.mkdir()
        (place / "notes.txt").write_text("years of work")
    elif kind == "group":
        zarr.create_group(place)
    elif kind == "image":
        create(tmp_path, None)
        shutil.move(place / "s0", place / "0")
    else:  # an array in place of the group, or one that says nothing about its voxels
        where = place if kind == "array" else place / "s0"
        zarr.create_array(where, shape=(4, 4, 4), chunks=(4, 4, 4), dtype=np.uint8)
    before = files(tmp_path)
    with pytest.raises(InputError, match=rf"{place}\S* exists and was not written by synpol"):
        claim(tmp_path, replace_empty=replace_empty)
    assert files(tmp_path) == before


def test_a_single_array_is_claimed_without_regard_to_its_neighbours(tmp_path):
    image = create(tmp_path, None)
    path = str(tmp_path / "raw" / "s1")
    assert claim_array(path, "mine") == Claim(Answer.ANEW, None)
    shape = {"chunk_shape": (2, 3, 3), "shard_shape": (2, 3, 3)}
    level = create_level(image, "s1", (1, 2, 2), attributes=begun("mine"), **shape)
    assert claim_array(path, "mine").answer is Answer.RESUME
    complete(level)
    assert claim_array(path, "mine").answer is Answer.FINISHED
    assert claim_array(path, "mine", fresh=True).answer is Answer.ANEW
    assert claim_array(path, "another").answer is Answer.ANEW
    for make in (zarr.create_group, lambda p: zarr.create_array(p, shape=(4,), dtype=np.uint8)):
        shutil.rmtree(path)
        make(path)
        with pytest.raises(InputError, match="s1 exists and was not written by synpol; list it"):
            claim_array(path, "mine", advice="list it")


def test_records_are_forgotten_before_another_array_is_made_and_kept_otherwise(tmp_path):
    records, table = tmp_path / "records", tmp_path / "table.parquet"
    (records / "0").mkdir(parents=True)
    table.touch()
    forget = [records, table, tmp_path / "never made"]

    def refused(overwrite: bool) -> Image:
        raise AssertionError("there is an array of this job")

    create(tmp_path, "mine")
    opened = claim(tmp_path).image_to_write(refused, forget)
    opened.array[:] = 7  # it is open to be written
    assert records.is_dir()
    assert table.is_file()

    def another(overwrite: bool) -> Image:
        assert overwrite
        assert not records.exists()
        assert not table.exists()
        return create(tmp_path, "another", overwrite)

    made = claim(tmp_path, "another").image_to_write(another, forget)
    assert made.array.attrs[HASH] == "another"
    assert not made.array[:].any()
    shutil.rmtree(tmp_path / "raw")
    made = claim(tmp_path).image_to_write(lambda overwrite: create(tmp_path, "mine", overwrite))
    assert made.array.attrs[HASH] == "mine"


def test_the_attributes_of_a_begun_array_say_that_it_is_not_finished():
    assert begun("a") == {HASH: "a", COMPLETE: False}
    assert begun("a", {"exclusive": True})[SETTINGS] == {"exclusive": True}


def test_an_unfinished_array_is_not_read_and_those_of_others_are(tmp_path):
    image = create(tmp_path, "mine")
    with pytest.raises(InputError, match="is unfinished"):
        check_complete(image)
    complete(image)
    check_complete(open_image(image.path))
    check_complete(create(tmp_path, None, overwrite=True))


def test_a_kill_while_an_image_is_replaced_leaves_none_of_its_voxels_to_the_next(
    tmp_path, monkeypatch
):
    unlink, remove_dir = os.unlink, os.rmdir
    for survived in range(100):
        shutil.rmtree(tmp_path / "raw", ignore_errors=True)
        image = create(tmp_path, "old")
        image.array[:] = 7
        create_level(
            image,
            "s1",
            (1, 2, 2),
            chunk_shape=(2, 3, 3),
            shard_shape=(2, 3, 3),
            attributes=begun("old"),
        ).array[:] = 7
        left = [survived]

        def killed(real, left=left):
            def remove(path, *given, **more):
                if not str(path).endswith(".partial"):  # zarr writes those, in other threads
                    if not left[0]:
                        raise OSError("killed")
                    left[0] -= 1
                return real(path, *given, **more)

            return remove

        monkeypatch.setattr(os, "unlink", killed(unlink))
        monkeypatch.setattr(os, "rmdir", killed(remove_dir))
        try:
            create(tmp_path, "new", overwrite=True)
        except InputError:
            monkeypatch.undo()
        else:
            monkeypatch.undo()
            break
        found = claim(tmp_path, "new")
        assert found.answer is Answer.ANEW
        made = found.image_to_write(lambda overwrite: create(tmp_path, "new", overwrite))
        assert not made.array[:].any()
        assert not (tmp_path / "raw" / "s1").exists()
    assert 10 < survived < 99


@pytest.mark.parametrize("content", [b"", b"\0" * 700])
def test_what_a_power_cut_left_of_an_image_is_nothing_and_a_stranger_is_kept(content, tmp_path):
    left = tmp_path / "instances"
    (left / "s0").mkdir(parents=True)
    (left / "zarr.json").write_bytes(content)
    (left / "s0" / ID).write_text("1")
    (left / "s0" / "zarr.1.partial").write_bytes(b"{")
    claim = claim_image(str(left), "digest")
    assert claim.answer is Answer.ANEW and claim.found is None
    (left / "s0" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="was not written by synpol"):
        claim_image(str(left), "digest")
