"""Pictures show the right side in the right colour; the report is one file that says it all."""

import base64
import csv
import html.parser
import json
import re

import hypothesis.strategies as st
import imageio.v3 as iio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from synpol.config import Config
from synpol.errors import InputError
from synpol.evaluation.scores import Evaluation
from synpol.images.writing import create_image
from synpol.report import figures, gallery, report
from synpol.report.report import busiest_sections, write_report

COLOURS = {"pre": figures.PRE, "post": figures.POST, "union": figures.UNION}
BLACK = np.zeros((6, 8), np.uint8)
LABELS = np.zeros((6, 8), np.uint64)
LABELS[0:3, 0:4], LABELS[0:3, 4:8], LABELS[4:6, 0:4] = 1, 2, 5


def colour(pixel):
    """Name of the colour that a pixel is a shade of; grey and white are none."""
    if np.ptp(pixel) < 0.05:
        return None
    return max(COLOURS, key=lambda c: pixel @ COLOURS[c] / np.linalg.norm(COLOURS[c]))


def polarity_of(**sides):
    """Channels pre, post, union (or background, pre, post) of one section."""
    return np.stack(
        [sides.get(name, np.zeros(BLACK.shape)) for name in ("pre", "post", "union")]
    ).astype(np.uint8)


# ---------------------------------------------------------------- pictures of sections


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
    st.sampled_from([0, 1, 100]),
    st.booleans(),
    st.booleans(),
)
def test_pictures_are_rgb_of_the_sections_size_between_0_and_1(
    seed, shape, dtype, spread, sides, exclusive
):
    rng = np.random.default_rng(seed)
    section = (100 + spread * rng.random(shape)).astype(dtype)
    polarity = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    labels = rng.integers(0, 7, shape).astype(np.uint64)
    for picture in (
        figures.grey(section),
        figures.with_polarity(section, polarity, exclusive, sides),
        figures.with_instances(section, labels, sides),
    ):
        assert picture.shape == (*shape, 3)
        assert 0 <= picture.min() <= picture.max() <= 1 + 1e-6


def test_a_section_is_stretched_and_has_no_colour():
    section = np.linspace(80, 120, 10000).reshape(100, 100)
    picture = figures.grey(section)
    assert (picture[0, 0, 0], picture[-1, -1, 0]) == (0, 1)
    assert (np.diff(picture[..., 0].reshape(-1)) >= 0).all()
    assert (np.ptp(picture, axis=-1) == 0).all()


def test_probabilities_tint_a_section_in_the_colours_of_their_sides():
    half = np.zeros(BLACK.shape)
    half[:, :4] = 255
    right = figures.with_polarity(BLACK, polarity_of(pre=half, post=255 - half, union=half))
    assert {colour(p) for p in right[:, :4].reshape(-1, 3)} == {"pre"}
    assert {colour(p) for p in right[:, 4:].reshape(-1, 3)} == {"post"}
    none = figures.with_polarity(BLACK, polarity_of(union=half))
    assert np.array_equal(none, figures.grey(BLACK))


def test_a_higher_probability_is_a_stronger_tint():
    rising = np.tile(np.linspace(0, 255, 8), (6, 1))
    strength = figures.with_polarity(BLACK, polarity_of(pre=rising))[0].sum(axis=-1)
    assert (np.diff(strength) > 0).all()
    assert strength[0] == 0


def test_exclusive_probabilities_have_the_background_first():
    everywhere = np.full(BLACK.shape, 255)
    for name, channel in ((None, "pre"), ("pre", "post"), ("post", "union")):
        picture = figures.with_polarity(BLACK, polarity_of(**{channel: everywhere}), exclusive=True)
        assert {colour(p) for p in picture.reshape(-1, 3)} == {name}


def test_without_sides_the_union_is_marked():
    everywhere = np.full(BLACK.shape, 255)
    for name, channel in ((None, "pre"), (None, "post"), ("union", "union")):
        picture = figures.with_polarity(BLACK, polarity_of(**{channel: everywhere}), sides=False)
        assert {colour(p) for p in picture.reshape(-1, 3)} == {name}


def test_without_sides_the_union_of_exclusive_probabilities_is_both_their_sides():
    everywhere = np.full(BLACK.shape, 255)
    for name, channel in ((None, "pre"), ("union", "post"), ("union", "union")):
        picture = figures.with_polarity(BLACK, polarity_of(**{channel: everywhere}), True, False)
        assert {colour(p) for p in picture.reshape(-1, 3)} == {name}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64])
def test_instances_are_filled_in_the_colours_of_their_sides_and_outlined(dtype):
    picture = figures.with_instances(BLACK, LABELS.astype(dtype))
    edge = figures.outline(LABELS)
    assert (picture[edge] == 1).all()
    for name, inside in (("pre", LABELS % 2 == 1), ("post", (LABELS > 0) & (LABELS % 2 == 0))):
        assert {colour(p) for p in picture[inside & ~edge]} == {name}
    assert not picture[LABELS == 0].any()


def test_instances_without_sides_have_one_colour():
    picture = figures.with_instances(BLACK, LABELS, sides=False)
    inside = (LABELS > 0) & ~figures.outline(LABELS)
    assert {colour(p) for p in picture[inside]} == {"union"}
    assert not picture[LABELS == 0].any()


def test_an_outline_is_where_an_instance_meets_something_else():
    expected = np.zeros(LABELS.shape, bool)
    expected[2, :] = expected[0:3, 3] = expected[4:6, 3] = True
    assert np.array_equal(figures.outline(LABELS), expected)
    assert not figures.outline(np.full((4, 5), 3)).any()


# ---------------------------------------------------------------- figures


def test_a_panel_names_its_pictures_and_numbers_its_synapses():
    picture = figures.with_instances(BLACK, LABELS)
    figure = figures.panel([("raw", picture), ("mine", picture), ("truth", picture)], {1: LABELS})
    shown = {axes.get_title(): [t.get_text() for t in axes.texts] for axes in figure.axes}
    shown.pop("", None)  # a place that is left empty
    assert shown == {"raw": [], "mine": ["1", "3"], "truth": []}
    one, three = figure.axes[1].texts
    assert one.get_position()[1] < three.get_position()[1]


def test_a_figure_becomes_a_png_in_text():
    figure, axes = figures.new_figure(2, 1)
    axes.plot([0, 1])
    head, _, content = figures.data_uri(figure, dpi=50).partition(",")
    assert head == "data:image/png;base64"
    assert iio.imread(base64.b64decode(content)).shape[:2] == (50, 100)


def test_score_curves_show_every_score_over_rising_iou():
    at = {"synapse": {"f1": 0.75}, "pre": {"f1": 0.5}}
    figure = figures.score_curves({"iou": {"0.9": at, "0.5": at | {"pre": {"f1": 0.25}}}})
    [axes] = figure.axes
    shown = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
    }
    assert shown == {"synapse": ([0.5, 0.9], [0.75, 0.75]), "pre": ([0.5, 0.9], [0.25, 0.5])}


def test_training_curves_show_what_was_logged():
    rows = [
        {"iteration": str(i), "loss": f"{2 - i / 10}", "dice": "", "side_right": "0.75"}
        for i in range(1, 6)
    ]
    left, right = figures.training_curves(rows).axes
    assert [line.get_label() for line in left.lines] == ["loss"]
    assert np.allclose(left.lines[0].get_ydata(), [1.9, 1.8, 1.7, 1.6, 1.5])
    assert np.allclose(right.lines[0].get_ydata(), 0.75)


@given(st.lists(st.one_of(st.floats(-10, 10), st.just(float("nan"))), min_size=1, max_size=400))
def test_smoothing_stays_between_the_known_values_and_passes_over_the_missing(values):
    values = np.array(values)
    found = figures.smooth(values)
    assert found.shape == values.shape
    if len(values) < 200:
        assert np.allclose(found, values, equal_nan=True)
    known = found[np.isfinite(found)]
    if known.size:
        assert np.nanmin(values) - 1e-9 <= known.min() <= known.max() <= np.nanmax(values) + 1e-9
    assert np.isfinite(found[np.isfinite(values)]).all()


# ---------------------------------------------------------------- sections worth a look


def image_of(folder, name, array):
    image = create_image(
        folder,
        name,
        shape=array.shape,
        dtype=array.dtype,
        voxel_size=(30, 16, 16),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=[min(s, 16) for s in array.shape],
        overwrite=True,
    )
    image.array[:] = array
    return image


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4))
def test_the_busiest_sections_are_the_fullest_of_their_part_of_the_volume(
    tmp_path, seed, depth, count
):
    rng = np.random.default_rng(seed)
    labels = (rng.random((depth, 6, 7)) < rng.random((depth, 1, 1)) ** 3).astype(np.uint8)
    amount = np.count_nonzero(labels, axis=(1, 2))
    found = busiest_sections(image_of(tmp_path, "truth", labels), count)
    parts = np.array_split(np.arange(depth), min(count, depth))
    assert len(found) == len(parts)
    for (z, where), part in zip(found, parts, strict=True):
        assert z in part
        assert amount[z] == amount[part].max()
        assert where == (slice(0, 6), slice(0, 7))


def test_a_large_section_is_shown_around_its_foreground(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CROP", 16)
    labels = np.zeros((1, 50, 60), np.uint8)
    labels[0, 30:34, 56:60] = 1
    [(z, (y, x))] = busiest_sections(image_of(tmp_path, "truth", labels), 3)
    assert (z, y.stop - y.start, x) == (0, 16, slice(44, 60))
    assert y.start <= 30 < 34 <= y.stop


def test_an_empty_volume_has_sections_too(tmp_path):
    found = busiest_sections(image_of(tmp_path, "truth", np.zeros((5, 6, 7), np.uint8)), 3)
    assert len(found) == 3


# ---------------------------------------------------------------- the report


class Page(html.parser.HTMLParser):
    """What a page refers to, what it says, and the rows of its tables."""

    def __init__(self, text):
        super().__init__()
        self.references, self.tags, self.words, self.rows = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def truth_of_two():
    labels = np.zeros((4, 20, 24), np.uint64)
    labels[:, 2:8, 2:6], labels[:, 2:8, 6:10] = 1, 2
    labels[:, 12:18, 10:14], labels[:, 12:18, 14:18] = 3, 4
    return labels


def small_result(folder, *, sides=True, dtype=np.uint8, **more):
    """A result of one synapse found and one lost; its config and its scores."""
    truth = truth_of_two()
    instances = np.where(truth <= 2, truth, 0)
    if not sides:
        truth, instances = (truth + np.uint64(1)) // 2, (instances + np.uint64(1)) // 2
    odd, union = instances % 2 == 1, instances > 0
    polarity = np.stack([odd, union & ~odd, union])
    polarity = polarity.astype(dtype) * (255 if dtype == np.uint8 else 1)
    raw = np.random.default_rng(0).integers(0, 256, truth.shape, dtype=np.uint8)
    for name, array in (
        ("raw", raw),
        ("truth", truth),
        ("instances", instances),
        ("polarity", polarity),
    ):
        image_of(folder / "result", name, array)
    labels = "polarity" if sides else "union"
    config = Config(
        run_dir=str(folder),
        predict={"raw": str(folder / "result/raw"), "output": str(folder / "result")},
        decode={"sides": sides, "thres": 0.375},
        evaluate={"truth": str(folder / "result/truth"), "labels": labels} | more,
    )
    scores = Evaluation.of([(instances, truth)], labels).to_json([0.3, 0.5, 0.9])
    return config, scores


def page_of(folder, config, scores):
    path = folder / "report.html"
    write_report(config, config.predict.output, scores, path)
    text = path.read_text()
    page = Page(text)
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert all(reference.startswith("data:") for reference in page.references)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    return page


def test_the_report_of_a_result_is_one_file_with_pictures_and_scores(tmp_path):
    config, scores = small_result(tmp_path)
    page = page_of(tmp_path, config, scores)
    assert "F1 of polarity-correct synapses at IoU 0.5: 0.667" in page.text
    assert "1 of 2 found, 1 predicted" in page.text
    for name in ("polarity correct", "synapse", "pre", "post"):
        assert name in page.text
    for iou, kinds in scores["iou"].items():
        shown = [cell for row in page.rows if row[0] == iou for cell in row[1:]]
        for score in kinds.values():
            assert {f"{score[k]:.3f}" for k in ("precision", "recall", "f1")} <= set(shown)
    assert "Magenta: pre-synaptic side." in page.text
    assert "thres 0.375" in page.text
    assert str(tmp_path / "result") in page.text
    assert "Training" not in page.text and "Timings" not in page.text
    pictures = [iio.imread(base64.b64decode(r.partition(",")[2])) for r in page.references]
    assert len(pictures) == 4  # three sections, and the scores
    sections = [int(z) for z in re.findall(r"section (\d+)", page.text)]
    assert len(sections) == 3 and sections == sorted(sections)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_pictures_of_the_report_show_both_sides(tmp_path, monkeypatch, dtype):
    panels = []

    def noted(columns, numbers=None):
        panels.append((dict(columns), numbers))
        return figures.new_figure(1, 1)[0]

    monkeypatch.setattr(figures, "panel", noted)
    page_of(tmp_path, *small_result(tmp_path, dtype=dtype))
    assert len(panels) == 3
    truth = truth_of_two()[0]
    for columns, numbers in panels:
        assert list(columns) == ["raw", "prediction", "instances", "truth"]
        assert (np.ptp(columns["raw"], axis=-1) == 0).all()
        assert np.array_equal(numbers[2], np.where(truth <= 2, truth, 0))
        for name in ("prediction", "instances", "truth"):
            inside = ~figures.outline(truth)
            shown = [
                {colour(p) for p in columns[name][inside & (truth == label)]}
                for label in (1, 2, 3, 4)
            ]
            found = [{None}] * 2 if name != "truth" else [{"pre"}, {"post"}]
            assert shown == [{"pre"}, {"post"}, *found]


def test_the_report_of_labels_without_sides_does_not_speak_of_sides(tmp_path):
    page = page_of(tmp_path, *small_result(tmp_path, sides=False))
    assert "F1 of synapse at IoU 0.5: 0.667" in page.text
    assert "sides are not known" in page.text
    assert "Magenta" not in page.text and "polarity correct" not in page.text


def test_the_report_shows_training_and_timings_where_there_are_logs(tmp_path):
    config, scores = small_result(tmp_path)
    with open(tmp_path / "log.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["iteration", "loss", "bce", "dice", "side_contrast", "side_right"])
        rows.writerows([i, 2 - i / 10, 1, 0.5, "", 0.75] for i in range(1, 8))
    (tmp_path / "timings.csv").write_text("train,12.5\npredict_blockwise,3.0\n")
    page = page_of(tmp_path, config, scores)
    assert "Training 7 iterations." in page.text
    assert "train 12.5" in page.text and "predict_blockwise 3.0" in page.text
    assert len(page.references) == 5


def compared(folder, names, scores):
    paths = []
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "scores.json").write_text(json.dumps(scores))
        paths.append(str(folder / name / "scores.json"))
    return paths


def test_the_report_shows_other_runs_beside_this_one(tmp_path):
    perfect = Evaluation.of([(truth_of_two(), truth_of_two())]).to_json([0.5])
    config, scores = small_result(tmp_path, compare=compared(tmp_path, ["plain"], perfect))
    page = page_of(tmp_path, config, scores)
    assert "plain: 1.000 at IoU 0.5" in page.text


def test_other_runs_whose_folders_share_a_name_are_all_shown(tmp_path):
    perfect = Evaluation.of([(truth_of_two(), truth_of_two())]).to_json([0.5])
    names = ["plain/heldout", "wide/heldout"]
    config, scores = small_result(tmp_path, compare=compared(tmp_path, names, perfect))
    page = page_of(tmp_path, config, scores)
    assert page.text.count("1.000 at IoU 0.5") == 2
    assert "plain" in page.text and "wide" in page.text


@pytest.mark.parametrize("content", [None, "not json", "[]", "{}"])
def test_scores_of_another_run_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "other" / "scores.json"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    config, scores = small_result(tmp_path, compare=[str(path)])
    with pytest.raises(InputError, match=rf"evaluate.compare: {path} "):
        write_report(config, config.predict.output, scores, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_another_run_without_sides_cannot_be_compared_and_is_named(tmp_path):
    truth = truth_of_two()
    other = Evaluation.of([(truth, truth)], "union").to_json([0.5])
    config, scores = small_result(tmp_path, compare=compared(tmp_path, ["plain"], other))
    with pytest.raises(InputError, match=r"evaluate.compare: .*plain/scores.json"):
        write_report(config, config.predict.output, scores, tmp_path / "report.html")


def test_names_of_folders_are_text_and_never_markup(tmp_path):
    folder = tmp_path / "<script>alert(1)<"
    page = page_of(tmp_path, *small_result(folder))
    assert "<script>alert(1)<" in page.text


def test_a_result_without_a_truth_beside_it_is_shown_by_its_instances(tmp_path):
    config, scores = small_result(tmp_path)
    evaluate = config.evaluate.model_copy(update={"truth": None})
    page = page_of(tmp_path, config.model_copy(update={"evaluate": evaluate}), scores)
    assert len(page.references) == 4


def test_a_result_of_which_images_are_missing_is_named(tmp_path):
    config, scores = small_result(tmp_path)
    (tmp_path / "result/polarity").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="result/polarity"):
        write_report(config, config.predict.output, scores, tmp_path / "report.html")


def write_rows(path, score):
    """A synapse table with these scores; synapse n is at (30 n, 16 n, 16 n)."""
    count = len(score)
    number = np.arange(1, count + 1)
    columns = {"synapse_id": number, "z": 30.0 * number, "y": 16.0 * number, "x": 16.0 * number}
    columns |= {"pre_score": np.array(score, float), "post_score": np.ones(count)}
    pq.write_table(pa.table(columns), path)


def test_what_the_score_is_worth_is_drawn_where_there_are_scores_enough(tmp_path):
    config, scores = small_result(tmp_path)
    write_rows(tmp_path / "result/synapses.parquet", np.arange(1, 101) / 100)
    pages = []
    for count in (100, 19):
        correct = {n: n > 50 for n in range(1, count + 1)}
        write_report(config, config.predict.output, scores, tmp_path / "report.html", correct)
        pages.append(Page((tmp_path / "report.html").read_text()).text)
    assert "Is the score to be trusted?" in pages[0]
    assert "Is the score to be trusted?" not in pages[1]


def test_the_curves_over_the_score_end_at_what_all_predictions_are(tmp_path):
    score, correct = np.array([0.2, 0.9, 0.5, 0.7]), np.array([False, True, False, True])
    figure = figures.cutoff_curves(score, correct, 4)
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert lines["precision"].tolist() == [[0.9, 1], [0.7, 1], [0.5, 2 / 3], [0.2, 0.5]]
    assert lines["recall"][:, 1].tolist() == [0.25, 0.5, 0.5, 0.5]
    assert lines["F1"][-1].tolist() == [0.2, 0.5]


def test_the_gallery_shows_the_surest_the_least_sure_the_wrong_and_the_missed():
    number = np.array([3, 5, 8, 9, 11])
    score = pa.array([0.9, 0.2, None, 0.6, 0.7])
    place = {a: number * (k + 1.0) for k, a in enumerate("zyx")}
    table = pa.table({"synapse_id": number, **place, "pre_score": score, "post_score": score})
    correct = {3: True, 5: False, 9: False}
    shown = gallery.choose(table, correct, {4: (1.0, 2.0, 3.0)})
    titles = {kind: [s.title.split(",")[0] for s in synapses] for kind, synapses in shown.items()}
    assert titles == {
        "Most confident": ["3", "11", "9", "5"],
        "Least confident": ["5", "9", "11", "3"],
        "Wrong, most confident first": ["9", "5"],
        "Missed, largest first": ["true synapse 4"],
    }
    assert shown["Most confident"][0] == gallery.Synapse("3, score 0.90", (3.0, 6.0, 9.0))
    assert shown["Missed, largest first"][0].position == (1.0, 2.0, 3.0)
    assert "Missed, largest first" not in gallery.choose(table, correct, {})


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_places_of_synapses_are_their_centroids_whatever_the_chunks(tmp_path_factory, seed, sides):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3).tolist())
    labels = rng.integers(0, 9, shape).astype(np.uint64)
    image = image_of(tmp_path_factory.mktemp("places"), "truth", labels)
    begin = [int(rng.integers(0, n)) for n in shape]
    size = [int(rng.integers(1, n - b + 1)) for n, b in zip(shape, begin, strict=True)]
    part = labels[tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))]
    numbers = (part + 1) // 2 if sides else part
    wanted = {int(n): int((numbers == n).sum()) for n in np.unique(numbers[numbers > 0])}
    found = gallery.centroids(image, wanted | {99: 5}, begin, size, sides)
    assert found.keys() == wanted.keys()
    if wanted:
        least = min(wanted)
        assert least not in gallery.centroids(image, {least: 10_000}, begin, size, sides)
    for number in wanted:
        centre = np.argwhere(numbers == number).mean(axis=0) + begin + 0.5
        np.testing.assert_allclose(found[number], centre * (30, 16, 16))


def test_the_report_shows_single_synapses_with_links_into_the_scene(tmp_path):
    config, scores = small_result(tmp_path)
    write_rows(tmp_path / "result/synapses.parquet", [0.8])
    evaluated = {"correct": {1: True}, "missed": {2: 192}}
    path = tmp_path / "report.html"
    write_report(config, config.predict.output, scores, path, **evaluated)
    plain = Page(path.read_text())
    assert "Most confident" in plain.text and "1, score 0.80" in plain.text
    assert "true synapse 2" in plain.text
    assert "Wrong" not in plain.text and "a truth that is a mask" not in plain.text
    write_report(config, config.predict.output, scores, path, correct={1: True}, missed={9: 5})
    assert "1 true synapses were missed; where they are" in Page(path.read_text()).text
    assert not any(reference.startswith("http") for reference in plain.references)
    write_report(
        config,
        config.predict.output,
        scores,
        path,
        **evaluated,
        link_of=lambda place: "http://127.0.0.1:1/at?" + "_".join(f"{p:g}" for p in place),
    )
    links = [r for r in Page(path.read_text()).references if r.startswith("http")]
    missed = ((2) * 30, 15 * 16, 14 * 16)  # the middle of the lost synapse
    assert links == [
        "http://127.0.0.1:1/at?30_16_16",
        "http://127.0.0.1:1/at?30_16_16",
        "http://127.0.0.1:1/at?{}_{}_{}".format(*missed),
    ]


def test_the_calibration_shows_the_share_of_each_bin():
    score = np.linspace(0, 1, 100)
    figure = figures.calibration(score, score > 0.5)
    shares = [container[0].get_ydata()[0] for container in figure.axes[0].containers]
    assert shares == [0.0] * 5 + [1.0] * 5
