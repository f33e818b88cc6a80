"""Tests of the config: how sources merge, and that what is wrong is named with its file."""

import re
from pathlib import Path

import pydantic
import pytest
import yaml

from synpol.config import Config, ImportVolume, Section, TrainingVolume, describe, load_config
from synpol.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
VOLUME = {"raw": "a/raw", "truth": "a/truth", "labels": "polarity"}


@pytest.fixture
def write(tmp_path):
    """Write a config file from text or from a dict; return its path."""

    def write(name, content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def base(write):
    """The smallest config."""
    return write("base.yaml", {"run_dir": "runs/a"})


def message(*sources):
    """What loading says is wrong."""
    with pytest.raises(InputError) as caught:
        load_config(sources)
    return str(caught.value)


# ---------------------------------------------------------------- sources and how they merge


def test_smallest_config_has_every_default(base):
    assert load_config([base]) == Config(run_dir="runs/a")


def test_later_files_win_key_by_key_and_leave_the_rest(write):
    first = write("1.yaml", {"run_dir": "r", "train": {"lr": 0.1, "batch_size": 3}, "seed": 1})
    second = write("2.yaml", {"train": {"lr": 0.2, "warmup": 7}, "loss": {"dice": 0.5}})
    train = load_config([first, second]).train
    assert (train.lr, train.batch_size, train.warmup) == (0.2, 3, 7)
    assert load_config([second, first]).train.lr == 0.1
    both = load_config([first, second])
    assert (both.seed, both.loss.dice, both.loss.bce) == (1, 0.5, 1.0)


def test_paths_in_a_home_folder_are_written_out(base, write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    volume = {"raw": "~/raw", "truth": "precomputed://~/truth", "labels": "polarity"}
    more = write("more.yaml", {"data": {"train": [volume]}, "workers": {"work_dir": "~/work"}})
    config = load_config([base, more, "predict.output=~/out", "run_dir=runs/a~b"])
    assert config.data.train[0].raw == "/home/ada/raw"
    assert config.data.train[0].truth == "precomputed:///home/ada/truth"
    assert config.workers.work_dir == "/home/ada/work"
    assert (config.predict.output, config.run_dir) == ("/home/ada/out", "runs/a~b")
    said = message(base, "predict.raw=~nobody-here/raw")
    assert "predict.raw is '~nobody-here/raw', but no home folder ~nobody-here" in said


def test_files_and_assignments_apply_in_the_order_given(base, write):
    overlay = write("overlay.yaml", {"train": {"lr": 0.2}})
    assert load_config([base, "train.lr=0.3", overlay]).train.lr == 0.2
    assert load_config([base, overlay, "train.lr=0.3", "train.lr=0.4"]).train.lr == 0.4


def test_lists_are_replaced_not_joined(base, write):
    one = write("1.yaml", {"data": {"train": [VOLUME, VOLUME]}, "tune": {"thres": [0.1, 0.2]}})
    two = write("2.yaml", {"data": {"train": [{**VOLUME, "labels": "union"}]}})
    config = load_config([base, one, two, "tune.thres=[0.7]"])
    assert [v.labels for v in config.data.train] == ["union"] and config.tune.thres == [0.7]


def test_assignments_before_the_first_file_work(base):
    assert load_config(["train.lr=0.3", base]).train.lr == 0.3


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.patch=[12, 96, 96]", (12, 96, 96)),
        ("train.lr=4.0e-3", 0.004),
        ("train.lr=1e-4", 0.0001),  # text in YAML 1.1
        ("train.iterations=12", 12),
        ("augment.flip=no", False),
        ("exclusive=true", True),
        ("predict.raw=s3://bucket/raw?version=2", "s3://bucket/raw?version=2"),
        ("predict.window=null", None),
        ("predict.window=", None),
        ("prepare.synthetic=[]", []),
        (
            "data.validation={raw: a/raw, truth: a/truth, labels: polarity}",
            TrainingVolume(**VOLUME),
        ),
        ("train={lr: 0.5}", Config(run_dir="r", train={"lr": 0.5}).train),
        ("tune.thres=[" + ", ".join(["0.25"] * 80) + "]", [0.25] * 80),  # too long for a file name
    ],
)
def test_value_of_an_assignment_is_yaml(assignment, expected, base):
    value = load_config([base, assignment])
    for part in assignment.partition("=")[0].split("."):
        value = getattr(value, part)
    assert value == expected and type(value) is type(expected)


def test_file_whose_name_holds_an_equals_sign_is_read(write):
    assert load_config([write("lr=0.1.yaml", "run_dir: r")]).run_dir == "r"


def test_assignment_changes_one_of_two_places_that_share_a_yaml_anchor(write):
    anchored = write(
        "a.yaml",
        "run_dir: r\n"
        "data:\n"
        "  train:\n"
        "    - &volume {raw: a/raw, truth: a/truth, labels: polarity}\n"
        "  validation: *volume\n",
    )
    data = load_config([anchored, "data.validation.raw=b/raw"]).data
    assert (data.train[0].raw, data.validation.raw) == ("a/raw", "b/raw")


def test_config_survives_a_round_trip_through_yaml(base):
    config = load_config([base, "train.patch=[12, 96, 96]", f"data.train=[{VOLUME}]"])
    again = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert Config.model_validate(again) == config


# ---------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trian.lr", "'train'"),
        ("Train.lr", "'train'"),
        ("run_dri", "'run_dir'"),
        ("train.itertions", "'train.iterations'"),
        ("loss.side_contrst", "'loss.side_contrast'"),
        ("workers.numworkers", "'workers.num_workers'"),
    ],
)
def test_unknown_key_names_the_near_miss(key, meant, base):
    said = message(base, f"{key}=1")
    unknown = key if key.split(".")[0] in Config.model_fields else key.split(".")[0]
    assert said.startswith(f"{key}=1: unknown key {unknown!r}; did you mean {meant}")


def test_unknown_key_with_nothing_near_lists_what_there_is(base):
    assert "unknown key 'zzz'; there is: augment, connect, data, decode, " in message(base, "zzz=1")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("lr", "train.lr"),
        ("train.flip", "augment.flip"),
        ("train.size_thres", "reject_sampling.size_thres"),
        ("predict.dilate_sz", "decode.dilate_sz"),
        ("data.run_dir", "run_dir"),
        ("train.validation", "data.validation"),
    ],
)
def test_key_in_the_wrong_section_is_found_where_it_belongs(key, place, base):
    assert message(base, f"{key}=1").endswith(f"unknown key {key!r}; did you mean {place!r}?")


def test_unknown_key_names_the_file_it_came_from(base, write):
    overlay = write("overlay.yaml", {"train": {"lr": 0.1, "itertions": 5}})
    assert message(base, overlay).startswith(f"{overlay}: unknown key 'train.itertions'")
    assert message(overlay, base).startswith(f"{overlay}: unknown key 'train.itertions'")


def test_unknown_key_inside_a_list_names_the_near_miss(base, write):
    overlay = write("overlay.yaml", {"data": {"train": [VOLUME, {**VOLUME, "rwa": "x"}]}})
    said = message(base, overlay)
    assert said.startswith(f"{overlay}: unknown key 'data.train") and "'data.train.raw'" in said


def test_key_that_is_not_text_is_unknown(write):
    assert "unknown key '1'" in message(write("a.yaml", "run_dir: r\n1: x\n"))


# ---------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("train.lr=fast", "train.lr", "'fast'"),
        ("train.lr=0", "train.lr", "0"),
        ("train.lr=.nan", "train.lr", "nan"),
        ("train.lr=", "train.lr", "None"),
        ("train.lr.x=3", "train.lr", "{'x': 3}"),
        ("train.iterations=1.5", "train.iterations", "1.5"),
        ("train.precision=fp16", "train.precision", "'fp16'"),
        ("train=3", "train", "3"),
        ("seed=-1", "seed", "-1"),
        ("run_dir=2024", "run_dir", "2024"),
        ("decode.thres=1.5", "decode.thres", "1.5"),
        ("predict.overlap=1", "predict.overlap", "1"),
        ("model.filters=[8]", "model.filters", "[8]"),
        ("model.filters=[8, 0]", "model.filters.1", "0"),
        ("tune.thres=[]", "tune.thres", "[]"),
        ("data.train=[{raw: a, truth: b, labels: sides}]", "data.train.0.labels", "'sides'"),
    ],
)
def test_bad_value_is_named_with_its_key_and_source(assignment, key, value, base):
    said = message(base, assignment)
    assert said.startswith(f"{assignment}: {key}: ") and said.endswith(f"(it is {value})")


def test_bad_values_name_the_file_that_set_them_last(base, write):
    one = write("1.yaml", {"train": {"lr": -1, "iterations": 5}})
    two = write("2.yaml", {"train": {"iterations": 0}})
    lines = message(base, one, two).splitlines()
    assert len(lines) == 2
    assert any(line.startswith(f"{one}: train.lr: ") and "-1" in line for line in lines)
    assert any(line.startswith(f"{two}: train.iterations: ") and "0" in line for line in lines)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"loss": {"fraction_clip": [0.9, 0.1]}}, ["fraction_clip", "0.9, 0.1"]),
        ({"loss": {"bce": 0, "dice": 0, "side_contrast": 0}}, ["bce, dice", "nothing"]),
        ({"data": {"intensity_range": [5, 5]}}, ["intensity_range", "(5.0, 5.0)"]),
        ({"train": {"patch": [18, 250, 256]}}, ["train.patch", "(18, 250, 256)", "16"]),
        ({"predict": {"window": [20, 60, 64]}}, ["predict.window", "(20, 60, 64)", "16"]),
        ({"predict": {"overlap": [0.1, 1, 0]}}, ["predict.overlap", "along y is 1", "below 1"]),
        ({"predict": {"overlap": [0.1, 0, "a"]}}, ["predict.overlap", "along x is 'a'"]),
        ({"predict": {"overlap": [True, 0, 0]}}, ["predict.overlap", "along z is True"]),
        ({"predict": {"overlap": [0.1, 0]}}, ["predict.overlap", "[0.1, 0]", "z, y, x"]),
        ({"decode": {"block_shape": [0, 9, 9]}}, ["decode.block_shape", "0"]),
        ({"train": {"patience": 3}}, ["train.patience", "train.validate_every is 0"]),
        (
            {"evaluate": {"protocols": ["cremi-partners"]}},
            ["cremi-partners", "evaluate.segmentation"],
        ),
        ({"evaluate": {"protocols": ["lin2020"], "labels": "union"}}, ["protocols", "union"]),
        (
            {"exclusive": True, "data": {"train": [{**VOLUME, "labels": "union"}]}},
            ["exclusive", "union"],
        ),
    ],
)
def test_values_that_do_not_fit_together_are_named_with_their_file(section, parts, base, write):
    overlay = write("overlay.yaml", section)
    said = message(base, overlay)
    assert all(part in said for part in [*parts, overlay])


@pytest.mark.parametrize("shape", ["shape: [0, 8, 8]", "shape: [8, 8, 8], voxel_size: [30, 0, 16]"])
def test_synthetic_volume_without_extent_is_refused(shape, base):
    said = message(base, f"prepare.synthetic=[{{output: o, {shape}}}]")
    assert "prepare.synthetic.0" in said


def test_missing_required_key_is_named(write):
    assert "run_dir: this key is required" in message(write("a.yaml", {"seed": 1}))
    assert "run_dir: this key is required" in message("seed=1")


def test_missing_required_key_of_a_volume_is_named_with_its_file(base, write):
    overlay = write("overlay.yaml", {"data": {"train": [VOLUME, {"raw": "a", "truth": "b"}]}})
    assert message(base, overlay) == f"{overlay}: data.train.1.labels: this key is required"


def test_need_names_the_key_that_a_command_cannot_do_without(base):
    assert load_config([base, "predict.raw=a/raw"]).need("predict.raw") == "a/raw"
    with pytest.raises(InputError, match=r"predict\.raw is not set in the config"):
        load_config([base]).need("predict.raw")


# ---------------------------------------------------------------- files at fault


def test_missing_file_is_named_with_its_neighbour(tmp_path, monkeypatch):
    (tmp_path / "configs" / "more").mkdir(parents=True)
    names = "demo.yaml", "configs/demo.yaml", "configs/more/demo.yaml"
    for name in names:
        (tmp_path / name).write_text("run_dir: r")
    monkeypatch.chdir(tmp_path)
    for name in names:
        assert f"did you mean '{name}'" in message(name.replace("demo", "dmo"))
    absolute = str(tmp_path / "configs" / "demo.yaml")
    assert f"did you mean '{absolute}'" in message(absolute.replace("demo", "dmo"))


@pytest.mark.parametrize("source", ["configs", "what", ""])
def test_source_that_is_neither_file_nor_assignment_is_refused(source):
    assert message(source) == f"{source!r} is neither a YAML file nor section.key=value"


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- a\n- b\n", "text\n"])
def test_file_without_keys_is_refused(content, write):
    path = write("a.yaml", content)
    assert message(path) == f"{path} does not hold `key: value` lines"


def test_bad_yaml_is_named_with_file_and_line(write, base):
    path = write("a.yaml", "run_dir: r\nseed: [1\n")
    assert message(path).startswith(f"{path} is not YAML") and "line 2" in message(path)
    assert message(base, "seed=[").startswith("seed=[: the value is not YAML")


def test_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in message(str(path))


def test_key_given_twice_in_a_file_is_refused(write):
    path = write("a.yaml", "run_dir: r\ntrain: {batch_size: 3}\ntrain: {lr: 0.1}\n")
    assert "train" in message(path)


def test_yaml_cannot_run_code(write, tmp_path):
    made = tmp_path / "made"
    path = write("a.yaml", f'run_dir: !!python/object/apply:os.mkdir ["{made}"]\n')
    assert message(path).startswith(f"{path} is not YAML") and not made.exists()


# ---------------------------------------------------------------- the models themselves


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_config_of_the_repository_loads(path):
    """Alone, or an overlay over the demo's."""
    overlay = "run_dir" not in yaml.safe_load(path.read_text())
    under = [str(ROOT / "configs" / "demo.yaml")] if overlay else []
    assert load_config([*under, str(path)]).run_dir


def test_every_key_has_a_type_a_default_and_a_description():
    rows = list(describe(Config))
    keys = [key for key, *_ in rows]
    assert len(set(keys)) == len(keys) > 60
    for key, kind, default, meaning in rows:
        assert kind and default and meaning, key
        assert not re.search(r"\btyping\b|<class|\bNone\b", kind), key


def test_description_reaches_every_section_and_the_items_of_lists():
    rows = {key: row for key, *row in describe(Config)}
    assert rows["run_dir"][:2] == ["text", "required"]
    assert rows["train.patch"][:2] == ["3 whole numbers", "[18, 256, 256]"]
    assert rows["train.precision"][0] == "auto or float32 or bfloat16 or float16"
    assert rows["tune.thres"][0] == "list of number"
    assert rows["data.train[].labels"][:2] == ["polarity or union", "required"]
    assert rows["data.validation.raw"][1] == "required"
    assert rows["prepare.imports[].unit"][:2] == ["nm or angstrom or pm", "nm"]
    assert all(f"prepare.imports[].{name}" in rows for name in ImportVolume.model_fields)


def test_described_defaults_are_the_defaults(base):
    config = load_config([base])
    for key, _, default, _ in describe(Config):
        if default == "required" or "[]" in key:
            continue
        value = config
        *sections, last = key.split(".")
        for part in sections:
            value = None if value is None else getattr(value, part)
        if value is None:  # a section that is not set, such as data.validation
            continue
        value = getattr(value, last)
        plain = list(value) if isinstance(value, tuple) else value
        assert yaml.safe_load(default) == plain, key


def test_config_is_frozen_in_every_section(base):
    config = load_config([base])
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 3
    sections = [
        v for name in Config.model_fields if isinstance(v := getattr(config, name), Section)
    ]
    assert len(sections) > 10
    for section in sections:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), None)


def test_two_configs_share_no_lists(base):
    load_config([base]).model.filters.append(7)
    assert load_config([base]).model.filters == [18, 36, 48, 64, 80]


@pytest.mark.parametrize(
    ("said", "overlap"),
    [("0", 0.0), ("0.25", 0.25), ("[0.2, 0.2, 0.2]", 0.2), ("[0, 0.2, 0.25]", (0.0, 0.2, 0.25))],
)
def test_overlap_is_one_fraction_or_three(base, said, overlap):
    found = load_config([base, f"predict.overlap={said}"]).predict
    assert found.overlap == overlap and type(found.overlap) is type(overlap)
    stored = found.model_dump(mode="json", include={"overlap"})["overlap"]  # goes into hashes
    assert stored == (list(overlap) if isinstance(overlap, tuple) else overlap)


def test_window_of_the_prediction_is_the_training_patch_unless_given(base):
    assert load_config([base]).window == (18, 256, 256)
    assert load_config([base, "predict.window=[20, 64, 96]"]).window == (20, 64, 96)
