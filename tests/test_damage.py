"""Damaged chunks: what is read is what was written, or the damaged file is named."""

from pathlib import Path

import numpy as np
import pytest
from recipes import run, run_refused, write
from volumes import random_polarity, write_polarity

from synpol import InputError, decode_blockwise, polarity2instance
from synpol.images.image import open_image
from synpol.images.reading import read_voxels


def chunks(image: str) -> list[Path]:
    """Files with the voxels of an image."""
    return sorted(p for p in Path(image).rglob("c/**/*") if p.is_file())


def flip(file: Path, seed: int) -> None:
    """Flip one random bit of a file."""
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def test_a_flipped_bit_never_changes_what_is_decoded(tmp_path):
    """100 flips of single bits: the same instances, or the damaged file is named."""
    volume = random_polarity(0, (8, 40, 40), 2, 0.1, "uint8")
    expected = polarity2instance(volume, thres_small=4)
    prediction = write_polarity(tmp_path, volume, (8, 20, 20))
    files = chunks(prediction)
    named = 0
    for seed in range(100):
        file = files[seed % len(files)]
        whole = file.read_bytes()
        flip(file, seed)
        try:
            decoded = decode_blockwise(
                prediction, tmp_path / f"out{seed}", block_shape=(8, 40, 40), thres_small=4
            )
        except InputError as error:
            assert str(file) in str(error)
            assert "is damaged" in str(error)
            named += 1
        else:
            assert np.array_equal(open_image(decoded.instances).array[:], expected)
        file.write_bytes(whole)
    assert named > 90  # a checksum notices all but what no reader looks at


def test_every_command_names_the_damaged_file(tmp_path, capsys):
    volume = np.zeros((3, 8, 40, 40), np.uint8)
    volume[[0, 2], 2:6, 4:14, 4:14] = volume[[1, 2], 2:6, 4:14, 15:25] = 255
    write_polarity(tmp_path / "out", volume, (8, 20, 20))
    write(tmp_path, "neurons", np.ones((8, 40, 40), np.uint64))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\npredict: {{output: {tmp_path}/out}}\n"
        f"decode: {{thres_small: 1, block_shape: [8, 40, 40]}}\n"
        f"connect: {{segmentation: {tmp_path}/neurons}}\n"
        f"evaluate: {{truth: {tmp_path}/out/instances}}\n"
    )
    assert run("predict_blockwise", config, "--only", "decode") == 0
    (tmp_path / "truth").mkdir()
    (file,) = chunks(f"{tmp_path}/out/instances")
    whole = file.read_bytes()
    content = bytearray(whole)
    content[len(content) // 4] ^= 16
    file.write_bytes(content)
    for command in ("connect", "evaluate"):
        assert str(file.parent) in run_refused(capsys, command, config)
    assert run("predict_blockwise", config, "--only", "decode", "--fresh") == 0
    assert run("connect", config) == 0


def test_voxels_of_a_view_are_named_by_their_place(tmp_path):
    import zarr

    array = zarr.create_array(
        tmp_path / "turned",
        shape=(20, 16, 8),
        chunks=(10, 16, 8),
        dtype="uint8",
        dimension_names=["x", "y", "z"],
        attributes={"voxel_size": [8, 8, 30]},
        compressors=zarr.codecs.ZstdCodec(checksum=True),
    )
    array[:] = np.random.default_rng(0).integers(0, 255, array.shape)
    image = open_image(tmp_path / "turned")
    content = bytearray((tmp_path / "turned/c/1/0/0").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "turned/c/1/0/0").write_bytes(content)
    assert read_voxels(image.array, (slice(0, 8), slice(0, 16), slice(0, 10)), "a").any()
    with pytest.raises(InputError, match=r"0:8, 0:16, 10:20\] is damaged.*Copy the image anew"):
        read_voxels(image.array, (slice(None),), str(tmp_path / "turned"))


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def put_another(file: Path) -> None:
    """Put the file where no block has written one."""
    other = next(p for p in (file.with_name(str(n)) for n in range(2)) if not p.exists())
    other.write_bytes(file.read_bytes())


@pytest.mark.parametrize("harm", [remove, cut, lengthen, put_another])
@pytest.mark.parametrize("finished", [False, True])
def test_a_rerun_does_blocks_again_whose_files_have_changed(tmp_path, caplog, harm, finished):
    volume = np.zeros((3, 8, 40, 80), np.uint8)
    volume[[0, 2], 2:6, 4:14, 4:14] = volume[[1, 2], 2:6, 4:14, 15:25] = 255
    volume[[0, 2], 2:6, 24:34, 4:14] = volume[[1, 2], 2:6, 24:34, 15:25] = 255
    prediction, given = write_polarity(tmp_path, volume), {"block_shape": (8, 20, 40)}
    decoded = decode_blockwise(prediction, tmp_path / "out", thres_small=1, **given)
    expected = open_image(decoded.instances).array[:]
    files = chunks(f"{tmp_path}/out/instances")
    assert len(files) == 2
    if not finished:  # as a run that was killed just before its end
        open_image(decoded.instances, mode="r+").array.update_attributes({"synpol_complete": False})
    harm(files[1])
    again = decode_blockwise(prediction, tmp_path / "out", thres_small=1, **given)
    assert np.array_equal(open_image(again.instances).array[:], expected)
    assert "the files of 1 finished blocks are gone or changed" in caplog.text
    assert chunks(f"{tmp_path}/out/instances") == files
    caplog.clear()
    decode_blockwise(prediction, tmp_path / "out", thres_small=1, **given)
    assert not caplog.text
