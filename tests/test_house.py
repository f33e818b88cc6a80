"""The figures about the code itself are right."""

import importlib.util
import sys

import pytest
from recipes import ROOT


@pytest.fixture
def house(monkeypatch):
    """The module benchmarks/house.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "house", module)
    spec.loader.exec_module(module)
    return module


SOURCES = {
    "synpol/__init__.py": "from synpol.images.image import Image\n",
    "synpol/errors.py": "class InputError(ValueError): ...\n",
    "synpol/images/__init__.py": "",
    "synpol/images/image.py": "from synpol.errors import InputError\nfrom ..polarity import PRE\n",
    "synpol/polarity.py": "PRE = 0\n",
    "pipelines/train.py": "import synpol\nfrom synpol.images import image\n",
}


def imports(house, sources):
    return {(i.importer, i.imported, i.for_types) for i in house.House(sources).imports()}


def test_absolute_and_relative_imports_of_names_and_modules_are_found(house):
    assert imports(house, SOURCES) == {
        ("synpol", "synpol.images.image", False),
        ("synpol.images.image", "synpol.errors", False),
        ("synpol.images.image", "synpol.polarity", False),
        ("pipelines.train", "synpol", False),
        ("pipelines.train", "synpol.images.image", False),
    }
    assert house.House(SOURCES).upward() == []
    assert house.House(SOURCES).cycles() == []


@pytest.mark.parametrize(
    ("text", "for_types"),
    [
        ("def f():\n    from synpol.images.image import Image\n", False),
        ("if TYPE_CHECKING:\n    from synpol.images.image import Image\n", True),
        ("if typing.TYPE_CHECKING:\n    import synpol.images.image\n", True),
        ("try:\n    import synpol.images.image\nexcept ImportError: ...\n", False),
    ],
)
def test_an_import_against_the_order_is_found_wherever_it_stands(house, text, for_types):
    found = house.House(SOURCES | {"synpol/polarity.py": text}).upward()
    assert [(i.importer, i.imported, i.for_types) for i in found] == [
        ("synpol.polarity", "synpol.images.image", for_types)
    ]


def test_rooms_of_one_row_may_not_import_each_other(house):
    sources = {
        "synpol/decoding/job.py": "from synpol.prediction import windows\n",
        "synpol/prediction/windows.py": "",
    }
    assert len(house.House(sources).upward()) == 1


def test_cycles_between_rooms_and_within_one_are_named(house):
    between = SOURCES | {"synpol/errors.py": "import synpol.images.image\n"}
    assert house.House(between).cycles() == [["errors", "images"]]
    within = SOURCES | {
        "synpol/images/world.py": "def f():\n    from synpol.images.image import Image\n",
        "synpol/images/image.py": "from synpol.images.world import f\n",
    }
    assert house.House(within).cycles() == [["synpol.images.image", "synpol.images.world"]]


def test_long_files_loose_modules_and_shares_are_counted(house):
    figures = house.figures_of(house.House(SOURCES | {"synpol/images/writing.py": "a\n" * 401}))
    assert figures["files_over_400_lines"] == 1
    assert figures["top_modules"] == 2
    assert figures["largest_folder_share"] == pytest.approx(403 / 408)
    assert figures["largest_folder_share_of_synpol"] == pytest.approx(403 / 406)


def test_the_order_is_not_counted_where_a_room_is_not_in_it(house):
    figures = house.figures_of(house.House(SOURCES | {"synpol/viewer/scene.py": ""}))
    assert "upward_imports" not in figures


def test_ten_equal_lines_are_named_with_both_places_and_nine_are_not(house):
    lines = [f"x{i} = {i}" for i in range(12)]
    spread = "\n\n".join(lines[:10])
    one = {
        "synpol/polarity.py": "\n".join(lines) + "\n",
        "pipelines/train.py": f"from synpol.polarity import (\n    x1,\n)\n{spread}\n",
    }
    [run] = house.House(one).duplicated_runs()
    assert (run.length, run.places) == (10, ("pipelines/train.py:4", "synpol/polarity.py:1"))
    one["pipelines/train.py"] = "def f():\n    " + "\n    ".join(lines[:9]) + "\n"
    assert house.House(one).duplicated_runs() == []
    one["pipelines/train.py"] += "\n".join(f"    {line}" for line in lines[9:])
    assert [run.length for run in house.House(one).duplicated_runs()] == [12]


def test_a_commit_is_read_as_its_files_were(house):
    assert "synpol/__init__.py" in house.House.of_commit("HEAD").sources


def test_the_tree_keeps_its_order_and_its_sizes(house):
    tree = house.House.of_folder(ROOT)
    assert tree.unknown_rooms() == []
    assert [str(one) for one in tree.upward()] == []
    assert tree.cycles() == []
    assert tree.long_files() == {}
    assert house.figures_of(tree)["largest_folder_share"] < 0.15
