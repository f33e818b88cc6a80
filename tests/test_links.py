"""Tables of links, and their scores."""

import gzip
import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from recipes import run
from scipy.optimize import linear_sum_assignment

from synpol import InputError
from synpol.config import LinkTable
from synpol.evaluation import matching
from synpol.evaluation.known_links import where_known
from synpol.evaluation.links import RULES, LinkRule, score_links, unique_links
from synpol.images.writing import create_image
from synpol.synapses.links import PLACES, Links, read_links, read_neurons


def random_links(seed: int, count: int, size: float = 1500.0, neurons: int = 3) -> Links:
    """Links in a small box, of few neurons, so that many may match; 0 is an unknown neuron."""
    rng = np.random.default_rng(seed)
    pre = rng.uniform(0, size, (count, 3))
    return Links.of(
        pre,
        pre + rng.uniform(-200, 200, (count, 3)),
        rng.integers(0, neurons + 1, count),
        rng.integers(0, neurons + 1, count),
        rng.random(count),
    )


def brute_force(predicted: Links, truth: Links, rule: LinkRule) -> tuple[int, float]:
    """Matched pairs and their cost by one dense assignment over all rows."""
    ends = ("pre", "post") if rule.ends == "both" else (rule.ends,)
    distance = np.array(
        [
            np.linalg.norm(getattr(predicted, e)[:, None] - getattr(truth, e)[None], axis=2)
            for e in ends
        ]
    )
    possible = (distance <= rule.distance).all(axis=0)
    if rule.same_neurons:
        for side in ("pre_id", "post_id"):
            ours, true = getattr(predicted, side)[:, None], getattr(truth, side)[None]
            possible &= (ours == true) & (true != 0)
    cost = np.where(possible, distance.mean(axis=0), 2 * rule.distance)
    i, j = linear_sum_assignment(cost)
    good = possible[i, j]
    return int(good.sum()), float(cost[i, j][good].sum())


rules = st.builds(
    LinkRule,
    st.sampled_from(["pre", "post", "both"]),
    st.sampled_from([150.0, 400.0, 900.0]),
    st.booleans(),
)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 40), rules, st.booleans())
def test_the_matching_is_the_one_of_a_dense_assignment(seed, ours, true, rule, sparse):
    predicted, truth = random_links(seed, ours), random_links(seed + 1, true)
    with pytest.MonkeyPatch.context() as patch:
        if sparse:  # as for clusters too large for a dense table
            patch.setattr(matching, "_DENSE", 0)
        found = score_links(predicted, truth, rule, cutoffs=0).matching
    count, cost = brute_force(predicted, truth, rule)
    assert sum(distance for _, _, distance in found.pairs) == pytest.approx(cost)
    assert (found.matched, found.predicted, found.truth) == (count, ours, true)


def test_one_cluster_of_thousands_is_matched_without_a_dense_table():
    rng = np.random.default_rng(0)
    place = np.cumsum(rng.uniform(0, 300, (4000, 3)), axis=0)  # a chain: each is near the next
    truth = Links.of(place, place)
    predicted = Links.of(place + rng.uniform(-40, 40, place.shape), place)
    rule = LinkRule("pre", 700.0, same_neurons=False)
    found = score_links(predicted, truth, rule, cutoffs=0).matching
    assert found.matched == 4000
    assert np.mean([i == j for i, j, _ in found.pairs]) > 0.9


def test_the_published_scores_of_real_links_come_out_exactly(fafb_pb, tmp_path, capsys):
    """Buhmann et al. 2021 (synful) publish 0.62, 0.57 and 0.59 for these tables."""
    predicted = read_links(fafb_pb / "synful_links.csv.gz")
    truth = read_links(fafb_pb / "truth_links.csv.gz")
    neurons = read_neurons(fafb_pb / "skeletons.txt")
    assert (len(predicted), len(truth), len(neurons)) == (17_633, 14_779, 27)
    found = score_links(predicted, truth, RULES["synful"], neurons=neurons, cutoffs=0).matching
    wrong, missed = found.predicted - found.matched, found.truth - found.matched
    assert (found.matched, wrong, missed) == (8967, 5594, 6849)
    assert round(found.f1, 4) == 0.5904
    status = run(
        "evaluate_links",
        *settings_of(tmp_path, fafb_pb / "synful_links.csv.gz", fafb_pb / "truth_links.csv.gz"),
        "evaluate.links.rule=synful",
        f"evaluate.links.neurons={fafb_pb}/skeletons.txt",
        f"predict.output={tmp_path}",
    )
    assert status == 0
    assert "8967 found, 5594 wrong, 6849 missed" in capsys.readouterr().out
    written = json.loads((tmp_path / "link_scores.json").read_text())
    assert written["rule"]["distance"] == 700
    assert len(written["curve"]) == 20
    assert [row["links"] for row in written["edges"]] == list(range(1, 11))
    assert (tmp_path / "link_scores.png").read_bytes().startswith(b"\x89PNG")


def settings_of(folder, predicted, truth):
    """A config that names both tables."""
    config = folder / "links.yaml"
    config.write_text(
        f"run_dir: {folder}/run\n"
        f"evaluate: {{links: {{truth: {{path: {truth}}}, predicted: {{path: {predicted}}}}}}}"
    )
    return [str(config)]


def test_repeated_links_count_once_by_their_best_score():
    post = np.array([[0, 0, 0], [0, 0, 200], [0, 0, 400], [0, 0, 900], [0, 0, 0]], float)
    links = Links.of(
        post, post, [1, 1, 1, 1, 2], [5, 5, 5, 5, 5], np.array([0.1, 0.5, 0.5, 0.2, 0.9])
    )
    # the first three form a chain of steps of 200 nm
    assert unique_links(links, 250.0).tolist() == [1, 3, 4]
    assert unique_links(links, 0.0).tolist() == [0, 1, 2, 3, 4]
    unknown = Links.of(post, post, [0] * 5, [5] * 5)
    assert len(unique_links(unknown, 250.0)) == 5


def test_sites_say_what_one_post_for_each_can_reach():
    site = np.zeros((4, 3))
    site[3] = 1000
    truth = Links.of(site, site + 100, [1, 1, 1, 1], [2, 3, 4, 5])
    scores = score_links(truth[np.array([0, 3])], truth, RULES["cremi"])
    assert scores.recall_of_one_post == scores.matching.recall == 0.5
    assert scores.edges == [
        {"links": 1, "predicted": 2, "truth": 4, "matched": 2, "precision": 1.0, "recall": 0.5}
    ]


def test_an_unknown_neuron_is_found_by_no_rule_that_asks_for_it():
    place = np.zeros((1, 3))
    known, unknown = Links.of(place, place, [1], [2]), Links.of(place, place, [0], [2])
    for predicted, truth in ((known, unknown), (unknown, unknown), (unknown, known)):
        assert score_links(predicted, truth, RULES["cremi"]).matching.matched == 0
        loose = LinkRule("both", 400.0, same_neurons=False)
        assert score_links(predicted, truth, loose).matching.matched == 1


PLACE = {"pre_z": [40.0], "pre_y": [8.0], "pre_x": [12.0]}
PLACE |= {"post_z": [80.0], "post_y": [16.0], "post_x": [24.0]}
CAVE = {f"{s}_pt_position_{a}": PLACE[f"{s}_{a}"] for s in ("pre", "post") for a in "zyx"}
NEUPRINT = {f"{a}_{s}": PLACE[f"{s}_{a}"] for s in ("pre", "post") for a in "zyx"}
ROOT = 864_691_135_000_000_123


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        PLACE | {"pre_id": [ROOT], "post_id": [7], "score": [0.5]},
        PLACE | {"pre_skeleton_id": [ROOT], "post_skeleton_id": [7], "score": [0.5]},
        CAVE | {"pre_pt_root_id": [ROOT], "post_pt_root_id": [7], "score": [0.5]},
        NEUPRINT | {"bodyId_pre": [ROOT], "bodyId_post": [7], "confidence_post": [0.5]},
    ],
)
def test_tables_of_known_writers_are_read(tmp_path, kind, columns):
    path = tmp_path / f"links.{kind}"
    write(path, columns)
    links = read_links(path)
    assert links.pre.tolist() == [[40, 8, 12]]
    assert links.post.tolist() == [[80, 16, 24]]
    assert (links.pre_id[0], links.post_id[0], links.score[0]) == (ROOT, 7, 0.5)


def write(path, columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".gz":
        csv.write_csv(table, path.with_suffix(""))
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    else:
        csv.write_csv(table, path)


def test_other_columns_and_voxels_are_named(tmp_path):
    path = tmp_path / "mine.csv"
    write(path, {f"{k}_mine": v for k, v in PLACE.items()} | {"from": [3], "to": [-2]})
    columns = {name: f"{name}_mine" for name in PLACES} | {"pre_id": "from", "post_id": "to"}
    table = LinkTable(path=str(path), columns=columns, voxel_size=(0.04, 0.004, 0.004), unit="um")
    links = read_links(table)
    assert links.pre[0] == pytest.approx([1600, 32, 48])
    assert (links.pre_id[0], links.post_id[0]) == (3, 0)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1]}, r"has the columns a; pre_z.*are expected.*columns:"),
        (PLACE | {"pre_z": ["x"]}, "column pre_z holds no numbers"),
        (PLACE | {"pre_z": [None]}, "pre_z is empty or not finite in row 1"),
        (PLACE | {"pre_id": [0.5]}, "column pre_id holds no whole numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=words):
        read_links(tmp_path / "t.parquet")


def test_a_column_that_a_table_has_twice_is_named(tmp_path):
    path, names = tmp_path / "t.csv", [*PLACE, "pre_z"]
    path.write_text(f"{','.join(names)}\n{','.join(['1.5'] * len(names))}\n")
    with pytest.raises(InputError, match=r"t\.csv has several columns 'pre_z'"):
        read_links(path)


def test_damaged_and_missing_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no table of links"):
        read_links(tmp_path / "none.csv")
    pq.write_table(pa.table(PLACE), tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_links(tmp_path / "cut.parquet")
    for text, words in (("", "lists no neuron"), ("12\nx y\n", "line 2: 'x y' is no whole")):
        (tmp_path / "n.txt").write_text(text)
        with pytest.raises(InputError, match=words):
            read_neurons(tmp_path / "n.txt")


def test_the_command_says_what_is_missing(tmp_path, capsys):
    write(tmp_path / "a.csv", PLACE)
    write(tmp_path / "b.csv", PLACE | {"pre_id": [1], "post_id": [2]})
    config = settings_of(tmp_path, tmp_path / "a.csv", tmp_path / "b.csv")
    assert run("evaluate_links", *config) == 2
    assert "names no neurons at both ends" in capsys.readouterr().err
    assert run("evaluate_links", *config, "evaluate.links.same_neurons=false") == 0
    assert "1 found, 0 wrong, 0 missed" in capsys.readouterr().out
    (tmp_path / "empty.yaml").write_text("run_dir: r\n")
    assert run("evaluate_links", str(tmp_path / "empty.yaml")) == 2
    assert "evaluate.links.truth is not set" in capsys.readouterr().err


def test_links_of_places_that_nobody_annotated_are_neither_right_nor_wrong(tmp_path, capsys):
    mask = create_image(
        tmp_path, "known", shape=(10, 10, 10), dtype=np.uint8, voxel_size=(100, 100, 100),
        offset=(0, 0, 0), unit="nm", chunk_shape=(4, 4, 4),
    )  # fmt: skip
    mask.array[:, :, :5] = 1  # x below 500 nm
    pre = [[50, 50, x] for x in (100, 300, 490, 700, 900)]
    post = [[50, 250, x] for x in (100, 300, 510, 700, 900)]
    truth = Links.of(pre, post, [1] * 5, [2] * 5)
    found = Links.of(
        # right; wrong; near a link that is left out; right from beyond the border; elsewhere
        [[50, 60, 100], [850, 850, 100], [50, 55, 485], [50, 60, 505], [850, 850, 900]],
        [[50, 240, 100], [850, 950, 100], [50, 255, 495], [50, 240, 505], [850, 950, 900]],
        [1, 3, 1, 1, 3],
        [2, 4, 2, 2, 4],
    )
    rule = LinkRule("both", 20.0, same_neurons=True)
    ours, true = where_known(found, truth, rule, mask)
    assert true.tolist() == [True, True, False, False, False]
    assert ours.tolist() == [True, True, False, False, False]
    near = where_known(found, truth, LinkRule("both", 250.0, same_neurons=True), mask)[0]
    assert near.tolist() == [True, True, True, True, False]
    for name, links in (("truth", truth), ("found", found)):
        columns = {f"{s}_{a}": getattr(links, s)[:, k] for s in ("pre", "post")
                   for k, a in enumerate("zyx")}  # fmt: skip
        ids = {"pre_id": links.pre_id, "post_id": links.post_id}
        csv.write_csv(pa.table(columns | ids), tmp_path / f"{name}.csv")
    (tmp_path / "empty.yaml").write_text("run_dir: r\n")
    config = [
        str(tmp_path / "empty.yaml"),
        f"evaluate.links.truth.path={tmp_path}/truth.csv",
        f"evaluate.links.predicted.path={tmp_path}/found.csv",
        "evaluate.links.ends=both",
        "evaluate.links.distance=20",
    ]
    assert run("evaluate_links", *config, f"evaluate.links.known={mask.path}") == 0
    assert "3 predicted and 3 true links are left out" in capsys.readouterr().out
    scores = json.loads((tmp_path / "link_scores.json").read_text())
    assert (scores["matched"], scores["predicted"], scores["truth"]) == (1, 2, 2)
    assert scores["rule"]["known"] == mask.path
    mask.array[:] = 0
    assert run("evaluate_links", *config, f"evaluate.links.known={mask.path}") == 2
    assert "nothing to score" in capsys.readouterr().err
