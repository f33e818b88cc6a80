"""The shape of the code: what leans on what, how large its folders are, and what stands twice.

    python benchmarks/house.py [--rev REV] [--against REV] [--json FILE]

Reads the working tree, or the files of a commit, and runs none of them. With --against a second
commit is measured and shown beside it; in the JSON its figures end in _before. A room is a folder
of synpol/ or a module that lies loose in it. Imports inside functions and under TYPE_CHECKING count
too; the latter are listed apart. Where a commit has rooms that `ORDER` does not know, imports
against the order cannot be counted, and that figure is left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from figures import tell

ROOT = Path(__file__).resolve().parents[1]
#: folders that are the house
HOUSE = ("synpol", "pipelines", "benchmarks")
#: rooms from top to bottom: each may import from rows below its own and from nowhere else.
#: "synpol" is synpol/__init__.py, the public names.
ORDER = (
    ("benchmarks", "pipelines"),
    ("synpol",),
    ("command", "plan"),
    ("verification",),
    ("review",),
    ("scene",),
    ("report",),
    ("datasets", "connectivity"),
    ("training",),
    ("evaluation",),
    ("decoding", "prediction"),
    ("gp",),
    ("model",),
    ("synapses",),
    ("blockwise",),
    ("formats",),
    ("images",),
    ("config",),
    ("polarity",),
    ("files",),
    ("errors",),
)
LONGEST_FILE = 400
#: equal lines in two places from which on they are named
RUN = 10


@dataclass(frozen=True)
class Import:
    """An import statement of one module that names another module of the house.

    Attributes
    ----------
    importer, imported : str
        Dotted module names.
    line : int
    for_types : bool
        Whether it stands under ``if TYPE_CHECKING``.
    """

    importer: str
    imported: str
    line: int
    for_types: bool

    def __str__(self) -> str:
        note = " (for types)" if self.for_types else ""
        return f"{self.importer}:{self.line} imports {self.imported}{note}"


@dataclass(frozen=True)
class Run:
    """Equal lines in two places.

    Attributes
    ----------
    length : int
        Lines, blank ones and imports left out.
    places : tuple of str
        Path and line of the first line, twice.
    begin : str
        The first line.
    """

    length: int
    places: tuple[str, str]
    begin: str


class House:
    """The source files of a checkout.

    Parameters
    ----------
    sources : dict of str to str
        Text of every Python file of `HOUSE`, by its path in the checkout.
    """

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = dict(sorted(sources.items()))
        self.trees = {path: ast.parse(text) for path, text in self.sources.items()}
        self.modules = {module_of(path): path for path in self.sources}

    @classmethod
    def of_folder(cls, root: Path) -> House:
        """Read the files of a checkout."""
        paths = (path for name in HOUSE for path in (root / name).rglob("*.py"))
        return cls({str(path.relative_to(root)): path.read_text() for path in paths})

    @classmethod
    def of_commit(cls, revision: str) -> House:
        """Read the files of a commit of this repository."""
        git = ["git", "-C", str(ROOT)]
        listed = subprocess.run(
            [*git, "ls-tree", "--name-only", revision], check=True, capture_output=True, text=True
        )
        parts = [name for name in HOUSE if name in listed.stdout.split()]
        archive = subprocess.run(
            [*git, "archive", revision, *parts], check=True, capture_output=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            return cls(
                {
                    member.name: content.read().decode()
                    for member in files
                    if member.name.endswith(".py") and (content := files.extractfile(member))
                }
            )

    def imports(self) -> list[Import]:
        """Every import from one module of the house of another."""
        found = []
        for name, path in self.modules.items():
            package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
            for node, for_types in _imports_in(self.trees[path], False):
                for target in self._targets(node, package):
                    if target != name:
                        found.append(Import(name, target, node.lineno, for_types))
        return found

    def _targets(self, node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
        """Modules of the house that a statement names."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names if alias.name in self.modules]
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) + 1 - node.level], *([base] if base else [])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        targets = [name if name in self.modules else base for name in inner]
        return [name for name in dict.fromkeys(targets) if name in self.modules]

    def top_modules(self) -> list[str]:
        """Modules that lie loose in synpol/."""
        inside = [Path(path) for path in self.sources if path.startswith("synpol/")]
        return [p.stem for p in inside if len(p.parts) == 2 and p.stem != "__init__"]

    def folders(self) -> list[str]:
        """Folders of synpol/."""
        inside = [Path(path) for path in self.sources if path.startswith("synpol/")]
        return sorted({path.parts[1] for path in inside if len(path.parts) > 2})

    def lines(self) -> dict[str, int]:
        """Lines of every room."""
        counted: dict[str, int] = defaultdict(int)
        for name, path in self.modules.items():
            counted[room_of(name)] += self.sources[path].count("\n")
        return dict(counted)

    def long_files(self) -> dict[str, int]:
        """Files that are too long, with their lines."""
        lengths = {path: text.count("\n") for path, text in self.sources.items()}
        return {path: length for path, length in lengths.items() if length > LONGEST_FILE}

    def unknown_rooms(self) -> list[str]:
        """Rooms that `ORDER` does not name."""
        return sorted({room_of(name) for name in self.modules} - set(_ranks()))

    def upward(self) -> list[Import]:
        """Imports that run against `ORDER`, those between rooms of one row among them."""
        ranks = _ranks()
        found = []
        for one in self.imports():
            above, below = room_of(one.importer), room_of(one.imported)
            if above != below and ranks[above] >= ranks[below]:
                found.append(one)
        return found

    def cycles(self) -> list[list[str]]:
        """Groups of rooms, and of modules of one room, in which imports lead round in a circle."""
        edges = [(i.importer, i.imported) for i in self.imports()]
        rooms = nx.DiGraph((room_of(a), room_of(b)) for a, b in edges)
        inside = nx.DiGraph((a, b) for a, b in edges if room_of(a) == room_of(b))
        groups = [*nx.strongly_connected_components(rooms)]
        groups += nx.strongly_connected_components(inside)
        return sorted(sorted(group) for group in groups if len(group) > 1)

    def duplicated_runs(self, parts: tuple[str, ...] = ("synpol", "pipelines")) -> list[Run]:
        """Runs of `RUN` or more equal lines in two places; indentation does not count."""
        lines: list[tuple[str, int, str]] = []
        for path, text in self.sources.items():
            if path.split("/")[0] not in parts:
                continue
            imports = _lines_of_imports(self.trees[path])
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip() and number not in imports:
                    lines.append((path, number, line.strip()))
            lines.append((path, 0, f"end of {path}"))  # no run goes on into the next file
        places: dict[tuple[str, ...], list[int]] = defaultdict(list)
        words = [word for *_, word in lines]
        for place in range(len(words) - RUN + 1):
            places[tuple(words[place : place + RUN])].append(place)
        found = []
        for group in places.values():
            for i, first in enumerate(group):
                for second in group[i + 1 :]:
                    if first and words[first - 1] == words[second - 1]:
                        continue  # part of a longer run
                    length = RUN
                    while second + length < len(words) and (
                        words[first + length] == words[second + length]
                    ):
                        length += 1
                    where = [
                        f"{path}:{number}" for path, number, _ in (lines[first], lines[second])
                    ]
                    found.append(Run(length, (where[0], where[1]), words[first]))
        return sorted(found, key=lambda run: run.places)


def module_of(path: str) -> str:
    """Dotted name of the module in a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str:
    """Room of a module; that of synpol/__init__.py is called synpol."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "synpol" and rest else first


def _ranks() -> dict[str, int]:
    return {room: rank for rank, row in enumerate(ORDER) for room in row}


def _imports_in(
    node: ast.AST, for_types: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements at any depth, and whether they are for the type checker only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, for_types
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from _imports_in(ast.Module([part], []), True)
            for part in child.orelse:
                yield from _imports_in(ast.Module([part], []), for_types)
        else:
            yield from _imports_in(child, for_types)


def _lines_of_imports(tree: ast.Module) -> set[int]:
    return {
        line
        for node, _ in _imports_in(tree, False)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def figures_of(house: House) -> dict[str, float]:
    """The figures of a house by name; shares are those of the largest folder of synpol/."""
    lines = house.lines()
    largest = max(n for room, n in lines.items() if room not in HOUSE)
    own = sum(n for room, n in lines.items() if room not in ("pipelines", "benchmarks"))
    figures: dict[str, float] = {
        "top_modules": len(house.top_modules()),
        "folders": len(house.folders()),
        "cycles": len(house.cycles()),
        "largest_folder_share": largest / sum(lines.values()),
        "largest_folder_share_of_synpol": largest / own,
        "files_over_400_lines": len(house.long_files()),
        "duplicated_runs": len(house.duplicated_runs()),
        "lines": sum(lines.values()),
    }
    if not house.unknown_rooms():
        figures["upward_imports"] = len(house.upward())
    return figures


def describe(house: House) -> str:
    """What is behind the figures, for people."""
    lines = house.lines()
    total = sum(lines.values())
    told = [
        "loose modules: " + (", ".join(house.top_modules()) or "none"),
        "",
        "lines of each room:",
    ]
    for room, count in sorted(lines.items(), key=lambda item: -item[1]):
        told.append(f"  {room:<14}{count:>7}{100 * count / total:>7.1f} %")
    unknown = house.unknown_rooms()
    if unknown:
        told += ["", f"rooms outside the order of the tree: {', '.join(unknown)}"]
    else:
        upward = house.upward()
        for title, kind in (("imports against the order", False), ("the same, for types", True)):
            told += ["", f"{title}:", *_listed(str(i) for i in upward if i.for_types == kind)]
    told += ["", "cycles:", *_listed(_cycle_text(house, group) for group in house.cycles())]
    long = (f"{path} ({length} lines)" for path, length in house.long_files().items())
    told += ["", f"files over {LONGEST_FILE} lines:", *_listed(long)]
    runs = (f"{r.length} lines: {' = '.join(r.places)}: {r.begin}" for r in house.duplicated_runs())
    return "\n".join([*told, "", f"{RUN} or more equal lines:", *_listed(runs)])


def _cycle_text(house: House, group: list[str]) -> str:
    """The members of a cycle and the imports that close it."""
    counted: Counter[str] = Counter()
    for one in house.imports():
        ends = [one.importer, one.imported]
        if not set(ends) <= set(group):
            ends = [room_of(end) for end in ends]
        if set(ends) <= set(group) and ends[0] != ends[1]:
            counted[" > ".join(ends)] += 1
    edges = ", ".join(f"{edge} ({count})" for edge, count in sorted(counted.items()))
    return f"{' - '.join(group)}: {edges}"


def _listed(items: Iterator[str]) -> list[str]:
    return [f"  {item}" for item in items] or ["  none"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rev", help="a commit; by default the working tree")
    parser.add_argument("--against", metavar="REV", help="a commit to be shown beside it")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    revisions = [given.rev] if given.against is None else [given.against, given.rev]
    houses = {
        revision or "working tree": House.of_commit(revision) if revision else House.of_folder(ROOT)
        for revision in revisions
    }
    for name, house in houses.items():
        print(f"{name}\n{'-' * len(name)}\n{describe(house)}\n")
    columns = {name: figures_of(house) for name, house in houses.items()}
    print(f"{'':<32}" + "".join(f"{name[:12]:>14}" for name in columns))
    figures = columns[given.rev or "working tree"]
    for key in figures:
        shown = (
            f"{column[key]:.3g}" if key in column else "not known" for column in columns.values()
        )
        print(f"{key:<32}" + "".join(f"{value:>14}" for value in shown))
    if given.against is not None:
        before = columns[given.against]
        figures = figures | {f"{key}_before": value for key, value in before.items()}
    tell(figures, given.json, ".6g")


if __name__ == "__main__":
    main()
