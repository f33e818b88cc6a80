"""A tile shows the voxels that are there, turned so that pre lies on the left."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from recipes import write

from synpol.images.image import open_image
from synpol.report.figures import POST, PRE
from synpol.review import tiles
from synpol.review.tiles import BY_SIDE, EDGE, Volume, box_of, cut_tile, directions

SIZE, OFFSET = np.array((30, 10, 10)), np.array((300, 100, -200))


def ball(shape, centre, radius):
    """Voxels whose centre lies within a radius (nm) of a place in the volume (nm)."""
    places = np.stack(np.indices(shape), -1) * SIZE + OFFSET + SIZE / 2
    return np.linalg.norm(places - centre, axis=-1) < radius


def volume_of(folder, vector, sides=True, dtype=np.uint8, size=(30, 10, 10)):
    """A synapse in the middle of a volume, with bright pre and dark post, and another beside it."""
    shape = (30, 120, 120)
    middle = OFFSET + SIZE * np.array(shape) / 2
    vector = np.array(vector, float)
    ends = middle - vector / 2, middle + vector / 2
    raw = np.random.default_rng(0).integers(110, 130, shape).astype(dtype)
    labels = np.zeros(shape, np.uint64)
    for label, end, grey in zip((5, 6), ends, (220, 20), strict=True):
        inside = ball(shape, end, 70)
        raw[inside], labels[inside] = grey, label if sides else 3
    labels[2:4, 5:20, 5:20] = 1
    padded = np.pad(raw, ((1, 0), (2, 0), (3, 0)))  # the image begins earlier than the instances
    write(folder, "raw", padded, voxel_size=SIZE, offset=OFFSET - SIZE * (1, 2, 3))
    write(folder, "instances", labels, voxel_size=SIZE, offset=OFFSET)
    images = (open_image(folder / name) for name in ("raw", "instances"))
    return Volume.of(*images, sides), *ends, raw, labels


def pixels(png):
    return np.array(Picture.open(io.BytesIO(png)))


def stack_of(tile):
    """Grey values, and codes of the sides, of which a voxel has several pixels, as one each."""
    codes = pixels(tile.stack_sides)
    codes = codes.reshape(tile.sections, -1, codes.shape[1])
    thin = codes.shape[2] // tile.size[1]
    assert codes.shape == (tile.sections, *(thin * n for n in tile.size))
    voxels = codes.reshape(tile.sections, tile.size[0], thin, tile.size[1], thin)
    sides = side_of(voxels)
    assert (sides == sides[:, :, :1, :, :1]).all()
    return pixels(tile.stack).reshape(tile.sections, *tile.size), voxels.min(axis=(2, 4))


def cuts_of(tile):
    return [np.split(pixels(p), 3, axis=1) for p in (tile.cuts, tile.cuts_sides)]


def side_of(codes):
    return np.where(codes > EDGE, codes - EDGE, codes)


def test_the_stack_is_the_sections_as_they_are(tmp_path):
    volume, pre, post, raw, labels = volume_of(tmp_path, (0, 0, 160))
    tile = cut_tile(volume, pre, post, 3, 400.0, 5)
    grey, codes = stack_of(tile)
    assert tile.sections == 5 and tile.step == (30, 10, 10)
    z, y, x = np.round((np.array(tile.corner) - OFFSET) / SIZE - (0.5, 0, 0)).astype(int)
    box = np.s_[z : z + 5, y : y + tile.size[0], x : x + tile.size[1]]
    assert box[0] == slice(13, 18)  # around the middle
    assert tile.size[0] * 10 >= 400 * 2**0.5  # so that it can be turned
    assert np.corrcoef(grey.ravel(), raw[box].ravel())[0, 1] > 0.999
    expected = np.select([labels == 5, labels == 6, labels > 0], [1, 2, 4])[box]
    assert np.array_equal(side_of(codes), expected)
    drawn = pixels(tile.stack_sides)
    assert (drawn > EDGE).any() and (drawn == BY_SIDE["pre"]).any()


def test_the_sides_have_their_colours_and_none_hides_the_image(tmp_path):
    volume, pre, post, *_ = volume_of(tmp_path, (0, 0, 160))
    tile = cut_tile(volume, pre, post, 3, 400.0, 5)
    colours = np.array(Picture.open(io.BytesIO(tile.stack_sides)).convert("RGBA"))
    codes = pixels(tile.stack_sides)
    for name, colour in (("pre", PRE), ("post", POST)):
        inside, edge = (colours[codes == BY_SIDE[name] + more] for more in (0, EDGE))
        assert (inside[:, :3] == (colour * 255).astype(int)).all()
        assert (inside[:, 3] < 90).all() and (edge[:, 3] == 255).all()
    assert (colours[codes == 0][:, 3] == 0).all()


@pytest.mark.parametrize("vector", [(0, 0, -160), (0, -110, 110), (150, 0, 40), (90, -90, -90)])
def test_pre_lies_left_of_post_in_turned_cuts(tmp_path, vector):
    volume, pre, post, *_ = volume_of(tmp_path, vector)
    tile = cut_tile(volume, pre, post, 3, 600.0, 7)
    grey, codes = cuts_of(tile)
    for cut, code in list(zip(grey, codes, strict=True))[:2]:
        side = side_of(code)
        assert cut.shape == (tiles.CUT_PIXELS,) * 2
        where = [np.argwhere(side == BY_SIDE[name]) for name in ("pre", "post")]
        assert all(len(w) > 20 for w in where)
        first, last = (w.mean(axis=0) for w in where)
        gap = 160 if sum(map(bool, vector)) == 1 else np.linalg.norm(vector)
        scale = 600 * tiles.CUT / tiles.CUT_PIXELS
        assert (last - first)[1] * scale == pytest.approx(gap, abs=20)
        assert abs((last - first)[0]) * scale < 20
        assert cut[side == BY_SIDE["pre"]].mean() > 200 > 50 > cut[side == BY_SIDE["post"]].mean()
    turn = np.array([np.cos(tile.angle), np.sin(tile.angle)])  # x, y
    if np.hypot(*vector[1:]) > 50:
        assert turn @ np.array(vector)[:0:-1] == pytest.approx(np.hypot(*vector[1:]))


@given(st.tuples(*[st.floats(-500, 500)] * 3))
def test_the_three_directions_are_at_right_angles(vector):
    frame = directions(np.array(vector))
    assert np.allclose(frame @ frame.T, np.eye(3), atol=1e-6)
    assert frame[1, 0] == 0 and frame[2, 0] >= 0
    length = np.linalg.norm(vector)
    if length > 1e-100:
        assert frame[0] @ vector == pytest.approx(length)


def test_a_place_shows_the_sides_of_all_synapses(tmp_path):
    volume, *_, labels = volume_of(tmp_path, (0, 0, 160))
    middle = OFFSET + SIZE * (4, 12, 12)
    tile = cut_tile(volume, middle, middle, 0, 300.0, 3)
    assert set(np.unique(side_of(stack_of(tile)[1]))) == {0, BY_SIDE["pre"]}
    assert tile.angle == 0
    assert box_of(volume.instances, 300.0, 3).tolist() == [90, 300, 300]
    assert labels.any()


def test_a_place_at_the_border_is_shown_with_nothing_beyond(tmp_path):
    volume, *_ = volume_of(tmp_path, (0, 0, 160))
    for corner in (OFFSET, OFFSET + SIZE * (30, 120, 120)):
        tile = cut_tile(volume, corner, corner, 0, 300.0, 5)
        grey, _ = stack_of(tile)
        assert grey.shape == (5, *tile.size)
        assert (grey == 0).any() and (grey > 0).any()


def test_labels_without_sides_have_one_colour(tmp_path):
    volume, pre, post, *_ = volume_of(tmp_path, (0, 0, 160), sides=False)
    codes = side_of(stack_of(cut_tile(volume, pre, post, 3, 400.0, 5))[1])
    assert set(np.unique(codes)) == {0, BY_SIDE["no side"]}


def test_thin_and_fine_voxels_are_shown_in_steps(tmp_path, monkeypatch):
    volume, pre, post, *_ = volume_of(tmp_path, (0, 0, 160))
    monkeypatch.setattr(tiles, "STEP", 60.0)
    monkeypatch.setattr(tiles, "PIXELS", 30)
    tile = cut_tile(volume, pre, post, 3, 400.0, 5)
    assert tile.step == (60, 20, 20)
    assert stack_of(tile)[1].shape == (5, *tile.size)


def test_images_of_many_bits_are_stretched_to_what_is_there(tmp_path):
    volume, pre, post, *_ = volume_of(tmp_path, (0, 0, 160), dtype=np.uint16)
    grey, _ = stack_of(cut_tile(volume, pre, post, 3, 400.0, 5))
    assert grey.min() == 0 and grey.max() == 255


def test_only_the_chunks_around_a_synapse_are_read(tmp_path, monkeypatch):
    volume, pre, post, *_ = volume_of(tmp_path, (0, 0, 60))
    read = []

    def noted(array, where, source):
        read.append(where)
        return np.asarray(array[where])

    monkeypatch.setattr(tiles, "read_voxels", noted)
    cut_tile(volume, pre, post, 3, 200.0, 3)
    assert sum(np.prod([s.stop - s.start for s in where]) for where in read) < 20_000  # of 432,000
