"""Choose the program that computes the network: OpenVINO or PyTorch."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal

from synpol.config import Config
from synpol.errors import InputError
from synpol.images.claim import Answer
from synpol.prediction.network import Engine

_log = logging.getLogger(__name__)


def engines_of(config: Config) -> list[Engine]:
    """List the engines that a prediction may have, the one for a new prediction first.

    Parameters
    ----------
    config : Config
        The config.
    """
    if config.predict.engine != "auto":
        return [config.predict.engine]
    if config.predict.int8:
        return ["openvino"]
    if config.predict.compile:
        return ["torch"]
    x86 = platform.machine() in ("x86_64", "AMD64")
    if x86 and find_spec("openvino") and _computes(config) and _is_usable():
        return ["openvino", "torch"]
    return ["torch", "openvino"]


def _is_usable() -> bool:
    """Whether the OpenVINO that is installed can be imported; a warning says why not."""
    from synpol.model.openvino_graph import loaded_openvino

    try:
        loaded_openvino()
    except InputError as error:
        _log.warning("PyTorch computes the network here: %s", error)
        return False
    return True


def _computes(config: Config) -> bool:
    """Whether OpenVINO has the device of a config, and its precision there."""
    if config.workers.gpus:  # workers compute on GPUs that this machine may lack
        return False
    import torch

    from synpol.model.device import choose_device, choose_dtype, has_bfloat16

    device = choose_device(config.device)
    dtype = choose_dtype(config.train.precision, device)
    return device.type == "cpu" and (dtype == torch.float32 or has_bfloat16(device))


def as_begun(
    where: str,
    choices: Sequence[tuple[Config, Engine]],
    answer: Callable[[Config, Engine], Answer],
) -> tuple[Config, Engine]:
    """Choose windows and engine: those of the prediction that is there, else the first.

    Parameters
    ----------
    where : str
        Path or URL of the prediction.
    choices : sequence of (Config, engine)
        Config with its windows laid out, and an engine; the first is for a new prediction.
    answer : callable
        What a job of a choice does about the prediction that is there.

    Raises
    ------
    InputError
        The engine is to compute, but cannot compute here.
    """
    first, preferred = choices[0]
    answers = [answer(*choice) for choice in choices]
    there = next((at for at, found in enumerate(answers) if found is not Answer.ANEW), 0)
    config, engine = choices[there]
    if answers[there] is not Answer.FINISHED:
        check_engine(engine, config)
    if config is not first:
        _log.warning(
            "%s was begun with windows of %s that overlap by half, the default then, and goes "
            "on with them; --fresh makes it anew with the cheaper default",
            where,
            tuple(config.window),
        )
    if (engine, preferred) == ("torch", "openvino"):
        _log.warning(
            "%s was begun with PyTorch and goes on with it; --fresh makes it anew with OpenVINO, "
            "which is faster here",
            where,
        )
    return config, engine


def with_engine(config: Config, engine: Engine) -> Config:
    """Return a config that names an engine."""
    predict = config.predict.model_copy(update={"engine": engine})
    return config.model_copy(update={"predict": predict})


def check_engine(
    engine: Engine | Literal["auto"], config: Config, was: str = "this prediction was"
) -> None:
    """Refuse OpenVINO, or 8-bit integers, where they cannot compute.

    Parameters
    ----------
    engine : {"auto", "torch", "openvino"}
        Engine that is to compute.
    config : Config
        Config as it was given; where it says auto, the engine is that of an earlier result.
    was : str
        Words for this result, before "begun".

    Raises
    ------
    InputError
        OpenVINO is not installed or cannot be imported, it has not the device or the precision,
        torch is to compile, or the processor has no instructions for 8-bit integers.
    """
    if config.predict.int8:
        _check_int8(engine, config)
    if engine != "openvino":
        return
    begun = config.predict.engine == "auto" and not config.predict.int8
    why = f"{was} begun with OpenVINO" if begun else "OpenVINO is to compute"
    otherwise = "predict.engine=torch" + (" begins anew with PyTorch" if begun else "")
    if config.predict.int8:
        why = "predict.int8 computes with OpenVINO"
        otherwise = "or say predict.int8=false and predict.engine=torch"
    if config.predict.compile:
        raise InputError(f"{why}, but predict.compile is for torch; leave one of them out")
    if not _computes(config):
        raise InputError(
            f"{why}, which computes on a CPU alone, and in bfloat16 where the CPU has it: say "
            f"device=cpu, workers.gpus=0 and train.precision=float32; {otherwise}"
        )
    if find_spec("openvino") is None:
        raise InputError(
            f"{why}, which is not installed: pip install 'synpol[openvino]'; {otherwise}"
        )
    from synpol.model.openvino_graph import loaded_openvino

    loaded_openvino()


def _check_int8(engine: Engine | Literal["auto"], config: Config) -> None:
    from synpol.model.device import has_vnni

    if engine == "torch":
        raise InputError("predict.int8 is OpenVINO's, but predict.engine is torch; leave one out")
    if config.workers.executor == "local" and not has_vnni():
        raise InputError(
            "predict.int8 needs a CPU with VNNI instructions, which this one lacks; leave it out"
        )
