"""Labels as others write them: background, sides and parts, in every command that reads labels."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from recipes import run, run_refused, tiny_config, tiny_volume, write

import synpol
from synpol.config import ImageSource, TrainingVolume
from synpol.errors import InputError
from synpol.images import view
from synpol.images.image import open_image
from synpol.images.labels import Survey, background_of, check_sides, check_truth, open_labels
from synpol.images.writing import create_image
from synpol.model.trained import latest_checkpoint
from synpol.training.volumes import in_one_unit, open_volume

SIZE = (30, 16, 16)
SHAPE = (8, 40, 40)
#: first voxels of four synapses that touch no border
PLACES = [(1, 3, 3), (1, 3, 25), (4, 20, 3), (4, 25, 25)]


@pytest.fixture(autouse=True)
def nothing_told():
    view._told.clear()


def sides(dtype=np.uint64, names=None):
    """Four synapses: 2n-1 left, 2n right; `names` are other labels for 1, 2, ..., 8."""
    found = np.zeros(SHAPE, np.uint64)
    for n, (z, y, x) in enumerate(PLACES, 1):
        found[z : z + 3, y : y + 8, x : x + 5] = 2 * n - 1
        found[z : z + 3, y : y + 8, x + 5 : x + 10] = 2 * n
    names = range(9) if names is None else [0, *names]
    return np.array(list(names), np.uint64)[found.astype(int)].astype(dtype)


def store(path, values, **attributes):
    """Labels as another program writes them."""
    made = zarr.create_array(
        str(path), data=values, chunks=(1, 4, 16, 16)[-values.ndim :], overwrite=True
    )
    made.attrs.update({"voxel_size": list(SIZE), "offset": [0, 0, 0], "units": ["nm"] * 3})
    made.attrs.update(attributes)
    return str(path)


def advised(message):
    found = re.search(r"\{path: .*?\}", message)
    assert found, message
    return ImageSource.model_validate(yaml.safe_load(found[0]))


def told(caplog):
    return [record.getMessage() for record in caplog.records]


# ---------------------------------------------------------------- background


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint64, [2**64 - 1, 2**64 - 2, 2**64 - 3]),
        (np.uint32, [2**32 - 1, 2**32 - 2, 2**32 - 3]),
        (np.int64, [-1]),
        (np.int8, [-1]),
    ],
)
@pytest.mark.parametrize("kind", ["polarity", "union", "ids", "mask"])
def test_values_that_mean_background_are_read_as_zero_and_told_once(
    tmp_path, caplog, dtype, values, kind
):
    meant = sides(dtype)
    labels = meant.copy()
    for number, value in enumerate(values):
        labels[:, 12 + number] = np.where(
            labels[:, 12 + number] == 0, value, labels[:, 12 + number]
        )
    path = store(tmp_path / "a", labels)
    for _ in range(2):
        image = open_labels(path, kind)
        assert np.array_equal(image.array[:], meant)
        assert image.array.dtype == dtype
    again = open_image(image.source, channels=0)
    assert np.array_equal(again.array[:], meant)
    assert sorted(told(caplog)) == sorted(
        f"{path}: the label {v} is taken as background; where it is a label, say which values are "
        "background: {path: ..., background: [0]}"
        for v in values
    )


def test_keys_say_which_values_are_background(tmp_path, caplog):
    labels = sides()
    labels[0, 0, :5] = [2**64 - 1, 77, 78, 2**64 - 1, 79]
    path = store(tmp_path / "a", labels)
    source = ImageSource(path=path, background=77, unknown=[78])
    found = open_labels(source, "union").array[:]
    assert found[0, 0, :5].tolist() == [2**64 - 1, 0, 0, 2**64 - 1, 79]
    assert [line for line in told(caplog) if "unknown (78)" in line]
    kept = open_labels(ImageSource(path=path, background=[0]), "union").array[:]
    assert np.array_equal(kept, labels)


@pytest.mark.parametrize(
    ("present", "kind", "found"),
    [
        ([0, 255], "union", None),
        ([0, 255], "mask", None),
        ([0, 1], "union", None),
        ([0, 1, 255], "union", 255),
        ([0, 1, 255], "mask", 255),
        ([0, 1, 2, 255], "polarity", 255),
        ([0, 1, 2, 254, 255], "union", None),
        ([0, 7, 255], "mask", None),
    ],
)
def test_the_largest_value_of_a_small_type_is_background_where_that_is_sure(present, kind, found):
    assert background_of(np.array(present, np.uint8), kind, "somewhere") == found


def test_a_value_that_may_be_either_is_refused_and_the_key_settles_it(tmp_path):
    labels = sides(np.uint16)
    labels[0, 0, 0] = 65535
    path = store(tmp_path / "a", labels)
    with pytest.raises(InputError, match=r"/a holds the label 65535, the largest of uint16") as no:
        open_labels(path, "union")
    assert open_labels(advised(str(no.value)), "union").array[0, 0, 0] == 0
    assert open_labels(ImageSource(path=path, background=[0]), "union").array[0, 0, 0] == 65535


def test_a_label_below_minus_one_is_refused_and_the_key_settles_it(tmp_path):
    labels = sides(np.int32)
    labels[0, 0, 0] = -7
    path = store(tmp_path / "a", labels)
    with pytest.raises(InputError, match=r"/a holds the label -7; labels are 0 or above") as no:
        open_labels(path, "union")
    assert open_labels(advised(str(no.value)), "union").array[0, 0, 0] == 0


def test_labels_that_are_no_whole_numbers_are_refused_but_may_be_a_mask(tmp_path):
    path = store(tmp_path / "a", sides(np.float32))
    with pytest.raises(InputError, match="is float32; labels are whole numbers"):
        open_labels(path, "ids")
    assert open_labels(path, "mask").array.dtype == np.float32


# ---------------------------------------------------------------- sides


def checked(tmp_path, labels):
    image = open_labels(store(tmp_path / "some", labels), "polarity")
    check_sides(image, Survey.of(image))


def test_sides_with_their_partners_pass_without_a_word(tmp_path, caplog):
    checked(tmp_path, sides())
    checked(tmp_path, np.zeros(SHAPE, np.uint8))
    assert told(caplog) == []


def test_a_survey_knows_labels_and_their_boxes(tmp_path):
    labels = sides()
    survey = Survey.of(open_labels(store(tmp_path / "a", labels), "polarity"))
    assert survey.labels.tolist() == list(range(1, 9))
    for label, low, high in zip(survey.labels, survey.low, survey.high, strict=True):
        places = np.argwhere(labels == label)
        assert low.tolist() == places.min(axis=0).tolist()
        assert high.tolist() == (places.max(axis=0) + 1).tolist()


@pytest.mark.parametrize("names", [[1, 4, 9, 12, 15, 18, 21, 24], [1, 0, 0, 4, 5, 0, 0, 8]])
def test_labels_of_which_none_has_its_partner_are_refused(tmp_path, names):
    with pytest.raises(InputError, match=r"/some is declared.*no label together with its partner"):
        checked(tmp_path, sides(names=names))


def test_labels_of_which_most_lack_their_partner_are_refused_and_five_are_shown(tmp_path):
    names = [1, 2, 3, 6, 7, 10, 11, 14]
    with pytest.raises(
        InputError, match=r"most of its labels lack.*\(6 of 7 synapses\): 3, 6, 7, 10, 11, \.\.\.\."
    ):
        checked(tmp_path, sides(names=names))


def test_a_few_labels_without_partner_are_told(tmp_path, caplog):
    checked(tmp_path, sides(names=[1, 2, 3, 4, 5, 6, 7, 0]))
    [line] = told(caplog)
    assert "1 labels lack their partner (2n-1 pre, 2n post): 7" in line


def test_a_side_that_the_border_cut_off_is_not_missed(tmp_path, caplog):
    checked(tmp_path, sides()[:, :, 8:])
    assert told(caplog) == []


def test_plain_ids_are_named_for_what_they_are(tmp_path):
    shape = (8, 120, 120)
    labels = np.zeros(shape, np.uint8)
    places = np.random.default_rng(0).permutation(
        [(y, x) for y in range(2, 110, 18) for x in range(2, 110, 18)]
    )
    for n, (y, x) in enumerate(places, 1):
        labels[2:5, y : y + 6, x : x + 6] = n
    image = open_image(store(tmp_path / "ids", labels), channels=0)
    with pytest.raises(InputError, match=r"do not lie side by side.*plain ids.*`labels: union`"):
        check_sides(image, Survey.of(image))


def test_sides_marked_as_distant_dots_are_told_but_taken(tmp_path, caplog):
    labels = np.zeros((8, 120, 120), np.uint16)
    for n, y in enumerate(range(5, 110, 20), 1):
        labels[3:5, y : y + 2, 20:22] = 2 * n - 1
        labels[3:5, y : y + 2, 28:30] = 2 * n
    checked(tmp_path, labels)
    assert "do not lie side by side: 1 and 2, 3 and 4" in told(caplog)[0]


def test_a_semantic_truth_is_trained_on_with_a_word_and_not_scored(tmp_path, caplog):
    semantic = np.where(sides() == 0, 0, 2 - sides() % 2).astype(np.uint8)
    truth = store(tmp_path / "semantic", semantic)
    write(tmp_path, "raw", np.zeros(SHAPE, np.uint8))
    volume = TrainingVolume(raw=f"{tmp_path}/raw", truth=truth, labels="polarity")
    assert open_volume(volume, None).semantic
    assert "without telling synapses apart" in told(caplog)[0]
    with pytest.raises(InputError, match=r"semantic holds the labels 1 and 2 alone.*polarity2inst"):
        check_truth(open_labels(truth, "polarity"), "polarity")
    # what the refusal advises
    labels = synpol.polarity2instance(synpol.seg_to_polarity(semantic), thres_small=1)
    numbered = store(tmp_path / "numbered", labels)
    check_truth(open_labels(numbered, "polarity"), "polarity")


def test_one_synapse_alone_is_not_taken_for_a_semantic_truth(tmp_path, caplog):
    one = np.where(sides() <= 2, sides(), 0)
    truth = store(tmp_path / "one", one)
    check_truth(open_labels(truth, "polarity"), "polarity")
    assert told(caplog) == []


# ---------------------------------------------------------------- what the commands make of them


@pytest.fixture
def tiny(tmp_path):
    tiny_volume(tmp_path / "data")
    return tmp_path


def foreign_truth(tiny, name, **changes):
    """The truth of the tiny volume as others might store it."""
    labels = open_image(tiny / "data" / "truth").array[:]
    background = changes.pop("background", 0)
    labels = np.where(labels == 0, np.uint64(background), labels)
    return store(tiny / name, labels, **changes), labels


def weights(config):
    import torch

    state = torch.load(latest_checkpoint(f"{config.parent}/run"), weights_only=True)
    return [*state["model"].values()]


def trained(tiny, name, volumes):
    folder = tiny / name
    folder.mkdir()
    config = tiny_config(folder, data={"train": volumes}, evaluate={})
    assert run("train", config) == 0
    return weights(config)


def same(one, other):
    return all(bool((a == b).all()) for a, b in zip(one, other, strict=True))


def test_a_network_learns_the_same_from_other_words_for_the_same(tiny):
    raw = f"{tiny}/data/raw"
    truth = f"{tiny}/data/truth"
    plain = trained(tiny, "plain", [{"raw": raw, "truth": truth, "labels": "polarity"}] * 2)
    marked, _ = foreign_truth(tiny, "marked", background=2**64 - 1)
    values = open_image(raw).array[:]
    finer = store(tiny / "finer", values, voxel_size=[300, 160, 160], units=["angstrom"] * 3)
    turned = zarr.open_group(tiny / "turned", mode="w")
    turned.create_array("0", data=values.transpose(2, 0, 1), chunks=(16, 4, 16))
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "xzy"]
    steps = [{"type": "scale", "scale": [0.016, 0.03, 0.016]}]
    turned.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
        ],
    }
    other = trained(
        tiny,
        "other",
        [
            {"raw": finer, "truth": marked, "labels": "polarity"},
            {"raw": f"{tiny}/turned", "truth": truth, "labels": "polarity"},
        ],
    )
    assert same(plain, other)


def test_labels_of_a_part_are_trained_on_as_if_the_image_were_cut(tiny, caplog):
    raw, labels = (open_image(tiny / "data" / name).array[:] for name in ("raw", "truth"))
    middle = (slice(None), slice(8, 40), slice(4, 44))
    place = {"offset": (0, 128, 64)}
    write(tiny / "cut", "raw", raw[middle], **place)
    write(tiny / "cut", "truth", labels[middle], **place)
    cut, truth = f"{tiny}/cut/raw", f"{tiny}/cut/truth"
    first = trained(tiny, "one", [{"raw": cut, "truth": truth, "labels": "polarity"}])
    whole = f"{tiny}/data/raw"
    second = trained(tiny, "two", [{"raw": whole, "truth": truth, "labels": "polarity"}])
    assert same(first, second)
    assert "covers a part of" in told(caplog)[0]
    third = trained(
        tiny, "three", [{"raw": cut, "truth": f"{tiny}/data/truth", "labels": "polarity"}]
    )
    assert same(first, third)


def test_validation_predicts_the_part_that_has_labels(tiny):
    labels = open_image(tiny / "data" / "truth").array[:]
    write(tiny, "middle", labels[:, 8:40, 4:44], offset=(0, 128, 64))
    part = {"raw": f"{tiny}/data/raw", "truth": f"{tiny}/middle", "labels": "polarity"}
    config = tiny_config(tiny, data={"train": [part], "validation": part}, train__validate_every=2)
    assert run("train", config) == 0
    predicted = open_image(tiny / "run" / "training_validation" / "polarity")
    assert (predicted.offset, predicted.shape_vx) == ((0, 128, 64), (8, 32, 40))


def test_labels_of_a_part_that_say_no_place_are_refused_and_the_key_goes_on(tiny):
    labels = open_image(tiny / "data" / "truth").array[:]
    middle = zarr.create_array(str(tiny / "middle"), data=labels[:, 8:40, 4:44])
    middle.attrs["voxel_size"] = list(SIZE)
    volume = {"raw": f"{tiny}/data/raw", "truth": f"{tiny}/middle", "labels": "polarity"}
    with pytest.raises(InputError, match=r"nothing says where .*/middle lies.*or crop") as refusal:
        open_volume(TrainingVolume.model_validate(volume), None)
    assert "offset: [z, y, x]" in str(refusal.value)
    volume["truth"] = {"path": f"{tiny}/middle", "offset": [0, 128, 64]}
    opened = open_volume(TrainingVolume.model_validate(volume), None)
    assert opened.raw.shape_vx == opened.truth.shape_vx == (8, 32, 40)
    assert opened.raw.offset == (0, 128, 64)


def test_labels_beside_the_image_are_refused(tiny):
    write(tiny, "beside", np.zeros((4, 8, 8), np.uint8), offset=(0, 160000, 0))
    volume = TrainingVolume(raw=f"{tiny}/data/raw", truth=f"{tiny}/beside", labels="union")
    with pytest.raises(InputError, match=r"does not cover .*/beside/s0 on whole voxels along y"):
        open_volume(volume, None)


def test_volumes_between_the_voxels_of_their_grid_are_brought_onto_it(tmp_path):
    for name, offset in (("raw", (-15, -8, -8)), ("truth", (-15, -8, -8))):
        write(tmp_path, name, sides(np.uint8), offset=offset)
    volume = TrainingVolume(raw=f"{tmp_path}/raw", truth=f"{tmp_path}/truth", labels="polarity")
    [opened] = in_one_unit([open_volume(volume, None)])
    assert opened.raw.offset == opened.truth.offset == (-30, -16, -16)


def decoded_truth(tiny, **changes):
    """A config whose result is the truth itself, decoded."""
    labels = open_image(tiny / "data" / "truth").array[:]
    polarity = (synpol.seg_to_polarity(labels) * 255).astype(np.uint8)
    write_polarity(tiny / "result", polarity)
    config = tiny_config(tiny, decode__thres_small=1, decode__dilate_sz=3, **changes)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    return config


def write_polarity(folder, values):
    image = create_image(
        folder,
        "polarity",
        shape=values.shape,
        dtype=values.dtype,
        chunk_shape=(3, 4, 16, 16),
        voxel_size=SIZE,
        offset=(0, 0, 0),
        unit="nm",
        overwrite=True,
    )
    image.array[:] = values


def scores(tiny):
    return json.loads((tiny / "result" / "scores.json").read_text())["iou"]["0.5"]


def test_background_counts_as_none_in_scores_and_in_the_report(tiny, capsys):
    config = decoded_truth(tiny)
    truth, _ = foreign_truth(tiny, "marked", background=2**64 - 1)
    assert run("evaluate", config, f"evaluate.truth={truth}") == 0
    assert all(score["f1"] == 1 for score in scores(tiny).values())
    union = {"decode__sides": False, "evaluate__labels": "union"}
    config = decoded_truth(tiny, **union)
    for dtype, top in ((np.uint8, 255), (np.int16, -1)):
        mask = (open_image(tiny / "data" / "truth").array[:] > 0).astype(dtype)
        none = np.flatnonzero(mask == 0)
        mask.reshape(-1)[none[1:]] = top
        path = store(tiny / f"mask{top}", mask)
        assert run("evaluate", config, f"evaluate.truth={path}") == 0
        assert scores(tiny)["synapse"]["f1"] == 1


def test_a_truth_that_is_not_what_it_is_said_to_be_is_not_scored(tiny, capsys):
    config = decoded_truth(tiny)
    labels = open_image(tiny / "data" / "truth").array[:]
    semantic = store(tiny / "semantic", np.where(labels == 0, 0, 2 - labels % 2))
    said = run_refused(capsys, "evaluate", config, f"evaluate.truth={semantic}")
    assert "labels 1 and 2 alone" in said
    assert "Traceback" not in said
    ids = store(tiny / "ids", 3 * labels)
    said = run_refused(capsys, "evaluate", config, f"evaluate.truth={ids}")
    assert "ids is declared `labels: polarity`, but" in said


def test_a_truth_of_a_part_is_refused_with_the_roi_to_predict(tiny, capsys):
    config = decoded_truth(tiny)
    labels = open_image(tiny / "data" / "truth").array[:]
    write(tiny, "middle", labels[:, 8:40, 4:44], offset=(0, 128, 64))
    said = run_refused(capsys, "evaluate", config, f"evaluate.truth={tiny}/middle")
    assert "'predict.roi={offset: [0, 128, 64], shape: [240, 512, 640]}'" in said


def test_background_is_no_partner(tiny, capsys):
    config = decoded_truth(tiny)
    neurons = np.full(open_image(tiny / "data" / "truth").shape_vx, 5, np.uint64)
    neurons[:, :, 24:] = 0
    tables = []
    for name, none in (("zero", 0), ("largest", 2**64 - 1)):
        path = store(tiny / name, np.where(neurons == 0, np.uint64(none), neurons))
        assert run("connect", config, f"connect.segmentation={path}") == 0
        tables.append(pq.read_table(tiny / "result" / "partners.parquet"))
    assert tables[0] == tables[1]
    assert set(tables[0]["pre_id"].to_pylist()) <= {0, 5}


def test_the_report_shows_connections_over_the_score_where_links_are_known(tiny, caplog):
    config = decoded_truth(tiny)
    write(tiny, "neurons", open_image(tiny / "data" / "truth").array[:])
    assert run("evaluate", config) == 0
    report = tiny / "result" / "report.html"
    assert "Links and connections" not in report.read_text()
    assert run("connect", config, f"connect.segmentation={tiny}/neurons") == 0
    assert run("evaluate", config) == 0
    assert "Links and connections" in report.read_text()
    table = tiny / "result" / "synapses.parquet"
    pq.write_table(pq.read_table(table).slice(0, 1), table)
    assert run("evaluate", config) == 0
    assert "links.parquet is of other synapses" in caplog.text
    assert "Links and connections" not in report.read_text()


def test_a_mask_with_a_value_for_unknown_predicts_what_the_plain_mask_does(tiny):
    config = tiny_config(tiny)
    assert run("train", config) == 0
    mask = np.zeros((8, 12, 12), np.uint8)
    mask[2:6, 3:9, 3:9] = 1
    results = []
    for name, other, attributes in (
        ("plain", 0, {"voxel_size": [30, 64, 64]}),
        ("unknown", 255, {"voxel_size": [300, 640, 640], "units": ["angstrom"] * 3}),
    ):
        path = store(tiny / name, np.where(mask == 0, np.uint8(other), mask), **attributes)
        if other:
            array = zarr.open_array(path, mode="r+")
            array[0, 0, 0] = 0
        where = f"predict.output={tiny}/{name}_out"
        assert run("predict_blockwise", config, f"predict.mask={path}", where) == 0
        results.append(open_image(f"{tiny}/{name}_out/polarity").array[:])
    assert np.array_equal(*results)
    assert results[0].any()


def test_a_prediction_is_the_same_from_an_image_stored_otherwise(tiny):
    config = tiny_config(tiny)
    assert run("train", config) == 0
    values = open_image(tiny / "data" / "raw").array[:]
    both = np.stack([255 - values, values], axis=-1)
    store(tiny / "turned", both.transpose(3, 1, 2, 0), voxel_size=[16, 16, 30])
    raw = f"predict.raw={{path: {tiny}/turned, axes: cyxz, channel: 1}}"
    results = []
    for name, more in (("plain", []), ("other", [raw])):
        where = f"predict.output={tiny}/{name}_out"
        assert run("predict_blockwise", config, where, *more) == 0
        results.append(open_image(f"{tiny}/{name}_out/polarity"))
    assert np.array_equal(*(image.array[:] for image in results))
    assert results[0].voxel_size == results[1].voxel_size == SIZE


def test_workers_read_what_the_driver_read(tiny, monkeypatch):
    monkeypatch.setattr("synpol.blockwise.driver.DRIVER_VOXELS", 0)
    monkeypatch.setattr("synpol.blockwise.driver.DRIVER_VOXELS_WITH_WORKERS", 0)
    config = decoded_truth(tiny)
    labels = open_image(tiny / "data" / "truth").array[:]
    two = np.stack([np.zeros_like(labels), np.where(labels == 0, 9999, labels)])
    path = store(tiny / "two", two.transpose(0, 3, 2, 1), voxel_size=[16, 16, 30])
    truth = {"path": path, "axes": "cxyz", "channel": 1, "background": 9999}
    changed = yaml.safe_load(config.read_text())
    changed["evaluate"] = {"truth": truth}
    changed["workers"] = {"num_workers": 2}
    config.write_text(yaml.safe_dump(changed))
    assert run("evaluate", config) == 0
    assert all(score["f1"] == 1 for score in scores(tiny).values())
