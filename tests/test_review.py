"""The review page: what it keeps, whom it obeys, and reviewers in a real Chromium."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import yaml
from recipes import ROOT, run, run_refused, write
from selenium.webdriver.common.keys import Keys

import synpol
from synpol.errors import InputError
from synpol.images.writing import create_image
from synpol.review.desk import ORDERS
from synpol.review.exchange import read_parquet, write_parquet
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict
from synpol.scene.browser import browser

SIZE, SHAPE = (30, 16, 16), (24, 96, 160)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A result of 240 synapses, each a row of two boxes along x, in a grid; its config."""
    folder = tmp_path_factory.mktemp("review")
    rng = np.random.default_rng(0)
    raw = rng.integers(90, 160, SHAPE).astype(np.uint8)
    polarity = np.zeros((3, *SHAPE), np.uint8)
    for z in range(2, 24, 8):
        for y in range(2, 96, 12):
            for x in range(3, 160, 16):
                pre, post = (np.s_[z : z + 3, y : y + 6, b : b + 5] for b in (x, x + 5))
                value = int(rng.integers(118, 256))  # some lie below the threshold of 0.5
                polarity[0][pre] = polarity[1][post] = value
                polarity[2][pre] = polarity[2][post] = value
                raw[pre], raw[post] = 210, 30
    write(folder / "data", "raw", raw, voxel_size=SIZE)
    image = create_image(
        folder / "result",
        "polarity",
        shape=polarity.shape,
        dtype=polarity.dtype,
        voxel_size=SIZE,
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(3, 8, 32, 32),
    )
    image.array[:] = polarity
    path = folder / "config.yaml"
    config = {
        "run_dir": str(folder / "run"),
        "predict": {"raw": f"{folder}/data/raw", "output": f"{folder}/result"},
        "decode": {"thres": 0.5, "thres_small": 10, "block_shape": SHAPE},
        "review": {"port": 0, "extent": 300, "sections": 3, "twice": 0, "reviewer": "ann"},
    }
    path.write_text(yaml.safe_dump(config))
    assert run("predict_blockwise", path, "--only", "decode") == 0
    return path


class Served:
    """A server of its own process."""

    def __init__(self, config, *more):
        command = [sys.executable, str(ROOT / "pipelines" / "review.py"), str(config), "--link"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*command, *more], stdout=subprocess.PIPE, text=True, env=environment
        )
        said = (line for line in self.process.stdout if line.startswith("http"))
        self.address = next(said).strip()
        self.port = urllib.parse.urlsplit(self.address).port
        self.path = urllib.parse.urlsplit(self.address).path

    def ask(self, path, sent=None, method=None):
        """Ask the page's server; returns status and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = sent if isinstance(sent, bytes | None) else json.dumps(sent)
        connection.request(method or ("GET" if sent is None else "POST"), path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, content

    def at(self, path, sent=None, method=None):
        return self.ask(self.path + path, sent, method)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "verdicts.db"
    with Served(made, f"review.verdicts={store}", "review.thres=0.4") as one:
        one.store = store
        yield one


# ---------------------------------------------------------------- the server


def test_without_the_secret_there_is_nothing(served):
    token = served.path.split("/")[2]
    assert len(token) == 32
    for other in ("", "x" * 32, token[:-1], token + "0"):
        for name in ("", "about", "next", "quality", "tile/found/0", "page.js"):
            assert served.ask(f"/review/{other}/{name}")[0] == 404
        assert served.ask(f"/review/{other}/verdicts", {"verdicts": []})[0] == 404


def test_the_page_loads_nothing_but_itself(served):
    status, page = served.at("")
    assert status == 200 and b"http://" not in page and b"https://" not in page
    for name in ("page.js", "pictures.js", "words.js", "page.css"):
        status, content = served.at(name)
        assert status == 200 and b"http" not in content.replace(b"https://github", b"")
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", served.path)
    headers = connection.getresponse().headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    connection.close()


def test_what_comes_next_has_tiles_and_verdicts_are_kept(served):
    _, about = served.at("about")
    assert set(about["orders"]) == set(ORDERS) - {"neuron", "disagreement"}
    _, items = served.at("next?order=sample&reviewer=ann&count=3")
    assert len(items) == 3 and len({item["row"] for item in items}) == 3
    status, tile = served.at(f"tile/found/{items[0]['row']}")
    assert status == 200 and tile["sections"] == 3
    assert all(tile[name].startswith("data:image/png;base64,") for name in ("stack", "cuts_sides"))
    names = ("pre", "post", "pre_voxels", "post_voxels", "score", "synapse_id", "table_hash")
    told = {name: items[0][name] for name in names}
    told |= {"verdict": "flipped", "reviewer": "ann", "uuid": "a1", "note": "dim"}
    assert served.at("verdicts", {"verdicts": [told]}) == (200, {"added": 1})
    assert served.at("verdicts", {"verdicts": [told]}) == (200, {"added": 0})  # it was sent twice
    (given,) = served.at(f"item/found/{items[0]['row']}")[1]["given"]
    assert (given["verdict"], given["reviewer"], given["note"]) == ("flipped", "ann", "dim")
    assert served.at("quality")[1]["judged"] == 1
    with VerdictStore(served.store) as store:
        assert [v.uuid for v in store.read()[0]] == ["a1"]


def test_candidates_are_what_lies_below_the_threshold(served):
    _, items = served.at("next?order=candidates&reviewer=ann&count=200")
    assert 5 < len(items) < 60
    assert all(0.39 < item["score"] < 0.5 and item["kind"] == "candidate" for item in items)
    assert served.at(f"tile/candidate/{items[0]['row']}")[0] == 200
    _, places = served.at("next?order=places&reviewer=ann&count=2")
    assert served.at(f"tile/place/{places[0]['row']}")[0] == 200


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("next?order=nothing", None),
        ("next?order=place", None),
        ("next?order=sample&count=x", None),
        ("next?order=sample&skip=found", None),
        ("next?order=sample&skip=found:²", None),
        ("next?order=candidates&skip=a:9999999999999999999999", None),
        ("tile/found/999999", None),
        ("tile/nothing/1", None),
        ("item/found/999999", None),
        ("verdicts", b"no json"),
        ("verdicts", b"[" * 100_000),
        ("verdicts", []),
        ("verdicts", {"verdicts": "x"}),
        ("verdicts", {"verdicts": [{"verdict": "right"}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "pre": [1, 2]}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "pre": [1, 2, "x"]}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "score": "x"}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "synapse_id": 1e300}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "more": 1}]}),
        ("verdicts", {"verdicts": [{"verdict": ["right"], "reviewer": {}}]}),
        ("verdicts", {"verdicts": [{"verdict": "right", "reviewer": "a", "pre": [1, 2, 1e999]}]}),
        ("scene", {"place": [1, 2]}),
        ("scene", {"place": [1, 2, float("nan")], "reviewer": "a"}),
    ],
)
def test_requests_that_make_no_sense_get_an_answer_that_says_so(served, path, sent):
    status, content = served.at(urllib.parse.quote(path, safe="/?=&:"), sent)
    assert status == 400 and content["error"], (status, content)


def test_a_reviewer_has_a_scene_of_its_own(served):
    ways = [served.at("scene", {"place": [90, 160, 320], "reviewer": n})[1]["way"] for n in "aba"]
    assert ways[0] == ways[2] != ways[1]
    status, page = served.ask(ways[0])
    assert status == 200 and b"neuroglancer" in page


# ---------------------------------------------------------------- the command


def test_verdicts_are_exported_and_imported(made, tmp_path, capsys):
    store = f"review.verdicts={tmp_path}/a.db"
    verdicts = [
        Verdict(verdict="right", reviewer="ann", pre=(90.0, 80.0, 80.0), post=(90.0, 80.0, 160.0)),
        Verdict(verdict="missed", reviewer="bo", pre=(90.0, 0.0, 0.0), post=(90.0, 0.0, 16.0)),
    ]
    with VerdictStore(tmp_path / "a.db") as own:
        own.add(verdicts)
    for name in ("a.parquet", "a.json"):
        assert run("review", made, store, "--export", tmp_path / name) == 0
        other = f"review.verdicts={tmp_path}/{name}.db"
        for new in (2, 0):
            assert run("review", made, other, "--import", tmp_path / name) == 0
            assert f"{new} of 2 verdicts are new" in capsys.readouterr().out
    assert read_parquet(tmp_path / "a.parquet") == verdicts
    assert ".parquet or .json" in run_refused(capsys, "review", made, store, "--export", "a.csv")
    (tmp_path / "b.parquet").write_text("no table")
    assert "b.parquet" in run_refused(capsys, "review", made, "--import", tmp_path / "b.parquet")


def test_what_cannot_be_reviewed_is_refused(made, tmp_path, capsys):
    assert "less than" in run_refused(capsys, "review", made, "review.thres=0.6", "--link")
    assert "exclusive" in run_refused(
        capsys, "review", made, "review.thres=0.3", "exclusive=true", "--link"
    )
    (tmp_path / "other.db").write_text("text " * 50)
    said = run_refused(capsys, "review", made, f"review.verdicts={tmp_path}/other.db", "--link")
    assert "other.db" in said and "review.verdicts" in said
    assert "local" in run_refused(capsys, "review", made, "predict.output=s3://bucket/x")


def test_messages_to_who_begins_say_how_to_go_on(made, tmp_path, capsys):
    store = f"review.verdicts={tmp_path}/a.db"
    said = run_refused(capsys, "review", made, f"predict.output={tmp_path}/none", "--link")
    assert f"{tmp_path}/none" in said and "predict_blockwise.py" in said
    assert "--apply" in run_refused(capsys, "review", made, store, "--above", "0.5", "--link")
    for name in ("no.parquet", "no.json"):
        said = run_refused(capsys, "review", made, store, "--import", tmp_path / name)
        assert f"there is no file {tmp_path / name}" in said
    (tmp_path / "file").write_text("")
    said = run_refused(capsys, "review", made, f"review.verdicts={tmp_path}/file/a.db", "--link")
    assert "name a file in another folder with review.verdicts" in said


def test_verdicts_about_another_volume_are_counted_aloud(made, tmp_path, capsys):
    path, store = tmp_path / "other.parquet", f"review.verdicts={tmp_path}/a.db"
    far = {"pre": (9e6, 0.0, 0.0), "post": (9e6, 50.0, 0.0)}
    write_parquet(path, [Verdict(verdict="right", reviewer="ann", **far)])
    assert run("review", made, store, "--import", path) == 0
    assert "1 of 1 verdicts belong to no synapse of this result" in capsys.readouterr().err
    assert run("review", made, store, "--apply", tmp_path / "new") == 0
    assert "1 of 1 verdicts belong to no synapse" in capsys.readouterr().err
    (tmp_path / "a.db").unlink()
    assert run("review", made, store, "--apply", tmp_path / "new") == 0
    assert "belong to no synapse" not in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_with_its_key(made, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = [f"review.port={port}", f"review.verdicts={tmp_path}/a.db", "--link"]
        assert "review.port" in run_refused(capsys, "review", made, *more)


def test_nothing_is_imported_before_the_address_that_the_page_does_not_need(made, tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "pipelines" / "review.py"), str(made)]
    with (tmp_path / "imports").open("w") as file:
        served = subprocess.Popen(
            [*command, "--link", f"review.verdicts={tmp_path}/a.db"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert any(line.startswith("http") for line in served.stdout)
        served.kill()
        served.wait()
    lines = (tmp_path / "imports").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "synpol.review.server" in imported
    assert not imported & {"pandas", "matplotlib", "networkx", "torch", "gunpowder", "daisy"}


# ---------------------------------------------------------------- Chromium


@pytest.fixture(scope="module")
def page():
    try:
        opened = browser((1500, 950))
        with opened as page:
            yield page
    except InputError as error:
        pytest.skip(f"{error} (make system-deps)")


def shown(page, after=None, seconds=30):
    """Wait until another item than `after` is drawn, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = page.execute_script("return document.body.dataset.shown")
        if now and now != after:
            return now
        time.sleep(0.01)
    raise AssertionError(f"nothing after {after}: {page.get_log('browser')}")


def until(page, script, wanted, seconds=30):
    end = time.monotonic() + seconds
    while (found := page.execute_script(f"return {script}")) != wanted:
        assert time.monotonic() < end, (script, found, page.get_log("browser"))
        time.sleep(0.02)


def press(page, keys):
    """Press keys, each when the next item is there; returns the items that were judged."""
    body, judged = page.find_element("tag name", "body"), []
    now = shown(page)
    for key in keys:
        judged.append(now)
        body.send_keys(key)
        now = shown(page, now)
    return judged


def kept(store):
    with VerdictStore(store) as own:
        return own.read()[0]


def review_with_a_kill(page, made, folder, count):
    """Two reviewers judge in turns; the server is killed in the middle, and started again."""
    store, free = folder / "verdicts.db", socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    more = [f"review.verdicts={store}", f"review.port={port}"]
    keys = ("rfrnrrmsrpru" * count)[:count]
    half = count // 2
    with Served(made, *more) as server:
        page.get(server.address)
        judged = press(page, keys[: half - 3])
        until(page, "document.body.dataset.waiting", "0")
        until(page, "Number(document.body.dataset.ahead) >= 3", True)
        server.kill()
        body = page.find_element("tag name", "body")
        for key in keys[half - 3 : half]:  # the tiles of these had come already
            judged.append(shown(page))
            body.send_keys(key)
            shown(page, judged[-1])
        until(page, "document.body.dataset.waiting", "3")
        until(page, "document.getElementById('warning').hidden", False)
    assert [v.verdict for v in kept(store)] == [NAMES[key] for key in keys[: half - 3]]
    with Served(made, *more) as server:
        first = page.current_window_handle
        page.get(server.address)
        until(page, "document.body.dataset.waiting", "0")
        assert len(kept(store)) == half
        page.switch_to.new_window("tab")
        page.get(server.address)
        shown(page)
        name = page.find_element("id", "reviewer")
        name.clear()
        name.send_keys("bo", Keys.ENTER)
        page.execute_script("document.getElementById('reviewer').blur()")
        second = page.current_window_handle
        time.sleep(0.5)
        place = half
        while place < count:
            for window in (first, second):
                page.switch_to.window(window)
                end = min(count, place + 5)
                judged += press(page, keys[place:end])
                until(page, "document.body.dataset.waiting", "0")
                place = end
        until(page, "document.body.dataset.judged", str(count))
        page.switch_to.window(second)
        page.close()
        page.switch_to.window(first)
    verdicts = kept(store)
    assert [v.verdict for v in verdicts] == [NAMES[key] for key in keys]
    assert len({v.synapse_id for v in verdicts}) == count  # nobody did the other's work
    assert {v.reviewer for v in verdicts} == {"ann", "bo"}
    assert len(set(judged)) == count


NAMES = {
    "r": "right",
    "f": "flipped",
    "n": "not_synapse",
    "m": "merged",
    "s": "split",
    "p": "outline",
    "u": "unsure",
}


@pytest.mark.browser
def test_twenty_verdicts_by_two_reviewers_survive_a_kill(page, made, tmp_path):
    review_with_a_kill(page, made, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.browser
def test_two_hundred_verdicts_by_two_reviewers_survive_a_kill(page, made, tmp_path):
    review_with_a_kill(page, made, tmp_path, 200)


@pytest.mark.browser
def test_every_key_does_what_the_help_says_and_the_mouse_does_it_too(page, served):
    page.get(served.address)
    now = shown(page)
    body = page.find_element("tag name", "body")
    before = len(kept(served.store))

    def said():
        until(page, "document.body.dataset.waiting", "0")
        return kept(served.store)[before:]

    # undo brings the synapse back, and another verdict stands then
    body.send_keys("n")
    later = shown(page, now)
    body.send_keys("z")
    assert shown(page, later) == now
    page.find_element("css selector", "#verdicts .flipped").click()
    assert shown(page, now) == later
    assert [v.verdict for v in said()] == ["not_synapse", "undo", "flipped"]
    assert said()[1].undoes == said()[0].uuid and said()[2].origin == "sample"
    # sections, by key, wheel and slider; sides; zoom; the other direction
    level = "document.getElementById('level').textContent"
    until(page, level, "section 0 (0 nm)")
    body.send_keys(Keys.ARROW_DOWN)
    until(page, level, "section +1 (+30 nm)")
    picture = "document.getElementById('stack').toDataURL()"
    drawn = [page.execute_script(f"return {picture}")]
    for key in ("t", "v", "+"):
        body.send_keys(key)
        drawn.append(page.execute_script(f"return {picture}"))
    assert len(set(drawn)) == 3 + (drawn[1] != drawn[2])  # what lies along x is not turned
    # back and forward without a verdict
    body.send_keys(Keys.ARROW_LEFT)
    assert shown(page, later) == now
    body.send_keys(Keys.ARROW_RIGHT)
    assert shown(page, now) == later
    # a note goes with the next verdict
    body.send_keys("c")
    page.find_element("id", "answer").send_keys("two clefts", Keys.ENTER)
    body.send_keys("m")
    shown(page, later)
    assert said()[-1].note == "two clefts" and said()[-1].verdict == "merged"
    # help
    body.send_keys("h")
    text = page.find_element("id", "help").text
    for word in ("flipped", "neuroglancer", "undo", "mouse", "missed"):
        assert word in text
    page.find_element("css selector", "#help button").click()
    # neuroglancer at the place
    body.send_keys("g")
    end = time.monotonic() + 20
    while len(page.window_handles) < 2 or not _at_scene(page):
        assert time.monotonic() < end
        time.sleep(0.1)
    for handle in page.window_handles[1:]:
        page.switch_to.window(handle)
        page.close()
    page.switch_to.window(page.window_handles[0])


def _at_scene(page):
    here = page.current_window_handle
    page.switch_to.window(page.window_handles[-1])
    found = "/v/" in page.current_url
    page.switch_to.window(here)
    return found


@pytest.mark.browser
def test_a_missed_synapse_is_added_by_two_clicks_where_it_is(page, served):
    from selenium.webdriver import ActionChains

    page.get(served.address)
    now = shown(page)
    kind, row = now.split(":")
    item = served.at(f"item/{kind}/{row}")[1]
    before = len(kept(served.store))
    canvas = page.find_element("id", "stack")
    width = canvas.size["width"]
    page.find_element("css selector", "[data-do=add]").click()
    for x in (-0.2, 0.1):  # of the width of 300 nm, from the middle
        ActionChains(page).move_to_element_with_offset(
            canvas, round(x * width), round(0.1 * width)
        ).click().perform()
    until(page, "document.body.dataset.waiting", "0")
    (missed,) = kept(served.store)[before:]
    assert missed.verdict == "missed"
    middle = (np.array(item["pre"]) + item["post"]) / 2
    for point, x in ((missed.pre, -60), (missed.post, 30)):
        assert np.array(point) - middle == pytest.approx([0, 30, x], abs=17)  # a voxel
    assert shown(page) == now  # one goes on with this synapse
    page.find_element("css selector", "[data-do=undo]").click()
    until(page, "document.body.dataset.waiting", "0")
    assert kept(served.store)[-1].undoes == missed.uuid


@pytest.mark.browser
def test_random_places_are_searched_and_the_recall_appears(page, served):
    page.get(served.address)
    now = shown(page)
    page.execute_script(
        "const o = document.getElementById('order'); o.value = 'places'; o.onchange();"
    )
    now = shown(page, now)
    assert now.startswith("place:")
    page.find_element("css selector", "#verdicts .seen").click()
    after = shown(page, now)
    assert after.startswith("place:")
    until(page, "document.body.dataset.waiting", "0")
    assert kept(served.store)[-1].verdict == "seen"
    assert served.at("quality")[1]["places_searched"] >= 1


def test_the_made_result_is_what_the_tests_take_it_for(made):
    import pyarrow.parquet as pq

    table = pq.read_table(Path(made).parent / "result" / "synapses.parquet")
    assert 215 < table.num_rows < 240 and synpol.__version__


def test_the_report_says_what_reviewers_say(made, tmp_path, capsys):
    from synpol.config import load_config
    from synpol.images.image import open_image
    from synpol.review.opening import open_desk, quality_of

    output = Path(made).parent / "result"
    config = load_config([str(made), f"review.verdicts={tmp_path}/a.db"])
    instances = open_image(output / "instances")
    assert quality_of(config, instances) is None
    with VerdictStore(tmp_path / "a.db") as store:
        desk = open_desk(config, store, instances)
        for reviewer in ("ann", "<b>bo</b>"):
            items = desk.next_items("sample", reviewer, 30, {})
            told = [desk.describe(item) for item in items]
            names = ("pre", "post", "pre_voxels", "post_voxels", "synapse_id", "table_hash")
            verdicts = ["right", "right", "flipped"] * 10
            store.add(
                Verdict(verdict=v, reviewer=reviewer, **{n: t[n] for n in names})
                for v, t in zip(verdicts, told, strict=True)
            )
    assert run("review", made, f"review.verdicts={tmp_path}/a.db", "--report") == 0
    said = capsys.readouterr().out
    assert "precision      100.0 %" in said and "recall         not known yet" in said
    page = (output / "review.html").read_text()
    assert "60 verdicts by" in page and "<b>bo</b>" not in page and "&lt;b&gt;bo" in page
    sides = json.loads((output / "review.json").read_text())["sides"]
    assert sides["low"] < 2 / 3 < sides["high"] and sides["judged"] == 60
    assert quality_of(config, instances)["judged"] == 60
