"""Configs that are larger, deeper or more entangled than a config can be are refused at once."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from recipes import ROOT

from synpol import InputError
from synpol.config import load_config
from synpol.config.text import DEPTH, VALUES, parse_yaml, shortened

LAUGHS = "a0: &a0 [1,2,3,4,5,6,7,8,9]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}], x{n}: 1}}\n" for n in range(1, 9)
)
#: texts, and the line that the message names
TEXTS = {
    "aliases of aliases": (LAUGHS, "line 5"),
    "merges of merges": (MERGES, "line 6"),
    "a list in itself": ("run_dir: &a [*a]\n", "line 1"),
    "a mapping in itself": ("run_dir: r\ntrain: &a {lr: *a}\n", "line 2"),
    "deep lists": ("run_dir: r\na: " + "[" * 10_000, "line 2"),
    "deep mappings": ("a: " + "{b: " * 10_000, "line 1"),
    "a number of many digits": (f"run_dir: r\nseed: {'9' * 5000}\n", "line 2"),
    "a hexadecimal number of many digits": (f"seed: 0x{'f' * 5000}\n", "line 1"),
    "a binary number of many digits": (f"seed: 0b{'1' * 50_000}\n", "line 1"),
    "a date that is none": ("run_dir: 2020-13-45\n", "line 1"),
    "a time that is none": ("run_dir: 2020-01-01 99:99:99\n", "line 1"),
    "an integer that is none": ("run_dir: r\nseed: !!int many\n", "line 2"),
    "a float that is none": ("seed: !!float [1]\n", "line 1"),
    "a truth that is none": ("seed: !!bool perhaps\n", "line 1"),
    "bytes that are none": ("seed: !!binary äöü\n", "line 1"),
    "an unknown tag": ("\n\nseed: !mine 1\n", "line 3"),
    "an object": ("seed: !!python/object:os.system 1\n", "line 1"),
    "an unknown alias": ("seed: *nobody\n", "line 1"),
    "a list as key": ("run_dir: r\n? [1, 2]\n: 3\n", "line 2"),
    "a mapping as key": ("? {a: 1}\n: 3\n", "line 1"),
    "a character that is none": ('run_dir: "\\UFFFFFFFF"\n', "line 1"),
    "half a character": ('run_dir: "\\ud800"\n', "line 1"),
    "a zero byte": ('run_dir: "a\\0b"\n', "line 1"),
    "two documents": ("run_dir: r\n---\nrun_dir: s\n", "line 2"),
    "a control character": ("run_dir: a\x01b\n", "not allowed"),
}


def refusal(*sources):
    """The message with which a config is refused; in a moment, and with little memory."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load_config([*map(str, sources)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**27
    assert time.monotonic() - started < 60  # without bounds it is hours
    message = str(caught.value)
    assert len(message) < 10_000
    return message


@pytest.mark.parametrize("what", TEXTS)
def test_yaml_that_is_no_config_is_refused_with_its_line(tmp_path, what):
    text, line = TEXTS[what]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    message = refusal(path)
    assert str(path) in message and line in message, message


@pytest.mark.parametrize("what", TEXTS)
def test_values_on_the_command_line_are_read_by_the_same_loader(what):
    _, _, text = TEXTS[what][0].partition(": ")
    if what in ("a list as key", "two documents"):
        text = TEXTS[what][0]
    base = ROOT / "configs" / "demo.yaml"
    message = refusal(base, f"train.lr={text}")
    assert message.startswith("train.lr="), message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a." * 5000 + "b", "parts"),
        ("a" * 100_000, "unknown key"),
        ("train." + "x" * 5000, "unknown key"),
        ("", "unknown key"),
        ("train..lr", "unknown key"),
    ],
)
def test_odd_keys_on_the_command_line_are_refused(key, said):
    assert said in refusal(ROOT / "configs" / "demo.yaml", f"{key}=1")


def test_long_values_are_shortened_in_messages(tmp_path):
    base = ROOT / "configs" / "demo.yaml"
    message = refusal(base, f"train.lr={'x' * 100_000}")
    assert "xxx...xxx" in message
    message = refusal(base, f"train.patch=[{', '.join(['a'] * 5000)}]")
    assert "..." in message
    many = refusal(base, f"evaluate.iou=[{', '.join(['a'] * 5000)}]")
    assert "more wrong values" in many
    assert shortened("x" * 100, 20) == "'xxxxxxxx...xxxxxxx'"


def test_a_config_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("run_dir: r\n" + "# comment\n" * 200_000)
    assert "characters" in refusal(path)


def test_aliases_within_bounds_are_followed():
    text = f"a: &a [{', '.join('1' for _ in range(99))}]\nb: [{', '.join(['*a'] * 90)}]\n"
    assert len(parse_yaml(text, "text")["b"]) == 90
    deep = "[" * (DEPTH - 1) + "]" * (DEPTH - 1)
    assert parse_yaml(deep, "text")
    with pytest.raises(InputError, match=str(VALUES)):
        parse_yaml(text + "".join(f"c{n}: *a\n" for n in range(500)), "text")


#: pieces from which configs are made at random
PIECES = [
    "run_dir: r", "train:", "  lr: ", "- ", "&a ", "*a", "<<: *a", "[", "]", "{", "}", ", ", ": ",
    "? ", "!!int ", "!!float ", "!!set ", "!!omap ", "!!binary ", "!!timestamp ", "!x ", "|", ">",
    "'", '"', "\\x", "\\u12", "#", "%YAML 9.9", "---", "...", "\n", "\n  ", "\t", "1e999", ".nan",
    "0x", "0b12", "1:2:3", "2001-02-30", "~", "null", "~nobody/x", "\u2028", "\ufeff", "é",
    "data:\n  train:\n  - raw: {path: a, voxel_size: [", "workers:\n  options: {", "evaluate:",
]  # fmt: skip


def try_texts(tmp_path, seeds):
    """Load random texts, in a file and as a value; anything but a config or a refusal fails."""
    path = tmp_path / "a.yaml"
    for seed in seeds:
        rng = random.Random(seed)
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 30)))
        path.write_text(text)
        for sources in ([str(path)], [str(ROOT / "configs" / "demo.yaml"), f"train.lr={text}"]):
            try:
                load_config(sources)
            except InputError as error:
                assert len(str(error)) < 5000
    return len(seeds)


def test_random_texts_are_configs_or_refused(tmp_path):
    assert try_texts(tmp_path, range(150)) == 150


@pytest.mark.slow
def test_random_texts_are_configs_or_refused_many_times(tmp_path):
    assert try_texts(tmp_path, range(1000, 6000)) == 5000
