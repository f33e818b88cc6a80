"""Random requests to the server of a review: each gets an answer, and the server works on."""

import copy
import random
import urllib.parse

import pytest
from test_import_fuzz import changed
from test_review import Served, made  # noqa: F401  (a fixture)

PIECES = [
    "about", "next", "item", "tile", "verdicts", "quality", "scene", "page.js", "found",
    "candidate", "place", "nothing", "0", "1", "-1", "999999", "9" * 22, "..", "%2e%2e", "%00",
    "%ff", "%c2%b2",
]  # fmt: skip
#: what `next` is asked for
NAMES, VALUES = ("order", "reviewer", "count", "skip", "seed"), ("sample", "ann", "3", "found:1")
ODD = ("", "x", "²", "\0", "nan", "1e999", "-1", "9" * 40, "found:", "a" * 3000, "candidates")


def request_of(rng, verdict):
    """Make a path and a body at random, mostly of what the page really sends."""
    path = "/".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 4)))
    if rng.random() < 0.4:
        given = zip(NAMES, VALUES, strict=False)
        query = {n: v if rng.random() < 0.6 else rng.choice(ODD) for n, v in given}
        path = f"next?{urllib.parse.urlencode(query)}"
    if rng.random() < 0.5:
        return path, None
    if rng.random() < 0.2:
        return rng.choice(("verdicts", "scene", path)), rng.randbytes(rng.randrange(200))
    body = {"verdicts": [copy.deepcopy(verdict)]}
    body["verdicts"][0]["uuid"] = str(rng.random())
    return "verdicts", changed(rng, body)


def try_requests(config, seeds):
    """Send random requests; none may be met by a fault of the server."""
    outcomes = {}
    with Served(config, f"review.verdicts={config.parent}/{seeds[0]}.db") as served:
        _, (item,) = served.at("next?order=sample&reviewer=ann&count=1")
        names = ("pre", "post", "pre_voxels", "post_voxels", "score", "synapse_id", "table_hash")
        verdict = {name: item[name] for name in names} | {"verdict": "right", "reviewer": "ann"}
        for seed in seeds:
            path, sent = request_of(random.Random(seed), verdict)
            status, content = served.at(path, sent)
            assert status in (200, 400, 404, 405), (seed, path, sent, status, content)
            assert b"root:" not in str(content).encode()
            outcomes[status] = outcomes.get(status, 0) + 1
        assert served.at("about")[0] == 200 and served.at("quality")[0] == 200
    return outcomes


def test_random_requests_get_an_answer(made):  # noqa: F811
    assert {200, 400, 404} <= {*try_requests(made, range(100))}


@pytest.mark.slow
def test_random_requests_get_an_answer_many_times(made, capsys):  # noqa: F811
    outcomes = try_requests(made, range(1000, 4000))
    with capsys.disabled():
        print(f"\nrequests to a review: {sum(outcomes.values())}, {outcomes}")
    assert sum(outcomes.values()) == 3000
