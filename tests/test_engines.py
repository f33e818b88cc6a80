"""OpenVINO as the program that computes the network, beside PyTorch."""

from __future__ import annotations

import csv
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
import zarr
from recipes import run, tiny_config, tiny_volume

from synpol.config import load_config
from synpol.errors import InputError
from synpol.images.claim import COMPLETE
from synpol.images.image import open_image
from synpol.model import RSUNet
from synpol.model.device import has_bfloat16, has_vnni
from synpol.model.openvino_graph import OpenVINONetwork
from synpol.prediction import engine

OPENVINO, TORCH = "predict.engine=openvino", "predict.engine=torch"


def network(norm="batch", activation="relu", filters=(8, 12, 16), residual=True):
    """A network whose layers have all had an influence on their parameters."""
    torch.manual_seed(1)
    made = RSUNet(filters, 3, norm, activation, residual).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if getattr(module, "weight", None) is not None and module.weight.dim() == 1:
            module.weight.data.uniform_(0.5, 1.5)
        if getattr(module, "bias", None) is not None:
            module.bias.data.normal_(0, 0.2)
    return made


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "prelu"])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_both_compute_the_same_network(norm, activation, residual):
    both = network(norm, activation, residual=residual)
    windows = torch.rand(2, 1, 5, 24, 40)
    with torch.inference_mode():
        expected = both(windows.clone())
    found = OpenVINONetwork(both, torch.float32)(windows)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 3e-4 * expected.abs().max()


HERE = [torch.float32] + [torch.bfloat16] * has_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("dtype", HERE)
def test_a_window_has_the_same_bytes_in_any_company_and_with_any_number_of_threads(dtype):
    windows, found, before = torch.rand(3, 1, 4, 24, 24), [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        computed = OpenVINONetwork(network(), dtype)
        found += [computed(windows), torch.cat([computed(window[None]) for window in windows])]
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_its_telemetry_is_not_imported():
    code = (
        "import sys; from synpol.model.openvino_graph import loaded_openvino; loaded_openvino();"
        "print([m for m, found in sys.modules.items() if 'openvino_telemetry' in m and found])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]" and version("openvino_telemetry")  # it is installed


def test_8_bits_change_little_and_nothing_by_threads_or_company():
    """On a processor without VNNI the same message is expected as at the start of a prediction."""
    both, windows = network(filters=(16, 16, 16)).train(), torch.rand(2, 1, 4, 24, 24)
    for _ in range(40):  # its batch norms learn what there is
        both(windows)
    both.eval()
    if not has_vnni():
        with pytest.raises(InputError, match="VNNI"):
            OpenVINONetwork(both, torch.float32, int8=True)
        return
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        computed = OpenVINONetwork(both, torch.float32, int8=True)
        found += [computed(windows), torch.cat([computed(window[None]) for window in windows])]
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])
    exact = OpenVINONetwork(both, torch.float32)(windows)
    assert 0 < (found[0] - exact).abs().mean() < 0.2 * exact.std()


def test_8_bits_are_refused_on_a_processor_without_instructions_for_them(
    trained, capsys, monkeypatch
):
    monkeypatch.setattr("synpol.model.device.has_vnni", lambda: False)
    monkeypatch.setattr("synpol.model.openvino_graph.has_vnni", lambda: False)
    config = tiny_config(trained, train__precision="float32")
    assert run("predict_blockwise", config, "--only", "predict", "predict.int8=true") == 2
    assert "VNNI" in capsys.readouterr().err
    with pytest.raises(InputError, match="VNNI"):  # on the machine of a worker
        OpenVINONetwork(network(), torch.float32, int8=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder, train__precision="float32")) == 0
    return folder


def predicted(folder, *changes):
    config = tiny_config(folder, train__precision="float32")
    assert run("predict_blockwise", config, "--only", "predict", *changes) == 0
    return open_image(folder / "result" / "polarity").array[:]


def stored(folder):
    files = (folder / "result" / "polarity" / "s0" / "c").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_blocks_of_any_shape_give_one_result_which_is_that_of_torch_but_for_rounding(trained):
    once = predicted(trained, OPENVINO)
    blocks = "predict.block_shape=[4, 12, 20]", "predict.chunk_shape=[4, 12, 20]"
    assert np.array_equal(predicted(trained, OPENVINO, *blocks), once)
    other = predicted(trained, TORCH)
    assert np.abs(other.astype(int) - once).max() <= 1 and once.std() > 1


def test_what_one_began_goes_on_with_it_unless_it_is_to_be_fresh(trained, caplog, monkeypatch):
    by_torch = predicted(trained, TORCH, "--fresh")
    before = stored(trained)
    assert np.array_equal(predicted(trained), by_torch) and stored(trained) == before
    assert "was begun with PyTorch and goes on with it" in caplog.text
    caplog.clear()
    new = predicted(trained, "--fresh")
    assert not caplog.text and np.array_equal(new, predicted(trained, OPENVINO))
    before = stored(trained)
    predicted(trained)
    assert stored(trained) == before

    monkeypatch.setattr(engine, "find_spec", lambda name: None)  # as where it is not installed
    config = tiny_config(trained, train__precision="float32")
    for changes in ([], [OPENVINO]):  # what is finished needs nothing that computes
        predicted(trained, *changes)
        assert stored(trained) == before
    zarr.open_array(trained / "result/polarity/s0").update_attributes({COMPLETE: False})
    assert run("predict_blockwise", config, "--only", "predict") == 2
    assert stored(trained) == before
    assert np.array_equal(predicted(trained, "--fresh"), by_torch)


def test_validations_go_on_with_the_engine_that_they_were_begun_with(tmp_path, monkeypatch, capsys):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, train__precision="float32", train__validate_every=2)
    rows_at = tmp_path / "run" / "validation.csv"

    def settings(*changes):
        assert run("train", config, *changes) == 0
        rows = csv.DictReader(rows_at.read_text().splitlines())
        return [row["settings"] for row in rows]

    by_torch = settings(TORCH)
    assert settings("train.iterations=6") == by_torch[:1] * 3  # all by PyTorch
    rows_at.unlink()
    new = settings("train.iterations=8")
    assert len(set(new)) == 1 and new[0] != by_torch[0]
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    capsys.readouterr()
    assert run("train", config, "train.iterations=10") == 2
    said = capsys.readouterr().err
    assert f"validations of {tmp_path}/run were begun with OpenVINO, which is not installed" in said
    assert "predict.engine=torch begins anew with PyTorch" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["predict.compile=true"], "predict.compile is for torch"),
        (["predict.int8=true", TORCH], "predict.engine is torch"),
        (["predict.int8=true", "model.activation=elu"], "this one has batch and elu"),
        (["device=auto", "workers.executor=slurm", "workers.gpus=1"], "computes on a CPU alone"),
    ],
)
def test_openvino_is_refused_where_it_cannot_compute(trained, capsys, changes, expected):
    config = tiny_config(trained, train__precision="float32")
    assert run("predict_blockwise", config, "--only", "predict", OPENVINO, *changes) == 2
    assert expected in capsys.readouterr().err


def test_bfloat16_on_a_processor_that_lacks_it_is_left_to_torch(trained, capsys, monkeypatch):
    monkeypatch.setattr("synpol.model.device.has_bfloat16", lambda device: False)
    config = tiny_config(trained, train__precision="bfloat16")
    begin = load_config([str(config)])
    assert engine.engines_of(begin)[0] == "torch"
    assert run("predict_blockwise", config, "--only", "predict", OPENVINO) == 2
    assert "train.precision=float32" in capsys.readouterr().err


def test_where_it_is_not_installed_the_message_says_what_to_install(monkeypatch, trained, capsys):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    config = tiny_config(trained, train__precision="float32")
    assert run("predict_blockwise", config, "--only", "predict", OPENVINO) == 2
    assert "pip install 'synpol[openvino]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "openvino", None)  # on the machine of a worker
    with pytest.raises(InputError, match=r"pip install 'synpol\[openvino\]'"):
        OpenVINONetwork(network(), torch.float32)


def test_one_that_is_too_old_or_damaged_is_left_alone_unless_it_is_asked_for(
    trained, capsys, caplog, monkeypatch
):
    by_torch = predicted(trained, TORCH, "--fresh")
    monkeypatch.setitem(sys.modules, "openvino.opset15", None)  # as with OpenVINO 2024
    assert np.array_equal(predicted(trained, "--fresh"), by_torch)
    assert "PyTorch computes the network here" in caplog.text and "-U openvino" in caplog.text
    config = tiny_config(trained, train__precision="float32")
    assert run("predict_blockwise", config, "--only", "predict", OPENVINO) == 2
    assert "pip install -U openvino, or say predict.engine=torch" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [[], [OPENVINO]])
@pytest.mark.parametrize("lacking", ["openvino", "device", "compile"])
def test_what_a_refusal_of_8_bits_advises_works(trained, capsys, monkeypatch, lacking, asked):
    monkeypatch.setattr(engine, "_check_int8", lambda *given: None)  # as with VNNI
    if lacking == "openvino":
        monkeypatch.setattr(engine, "find_spec", lambda name: None)
    if lacking == "device":
        monkeypatch.setattr(engine, "_computes", lambda config: False)
    config = tiny_config(trained, train__precision="float32")
    command = ["predict_blockwise", config, "--only", "predict", "predict.int8=true", *asked]
    if lacking == "compile":
        assert run(*command, "predict.compile=true") == 2
        assert "predict.int8 computes with OpenVINO, but predict.comp" in capsys.readouterr().err
        return
    assert run(*command) == 2
    advice = "predict.int8=false and predict.engine=torch"
    assert advice in capsys.readouterr().err
    assert run(*command, *advice.split(" and ")) == 0
