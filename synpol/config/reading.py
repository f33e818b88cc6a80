"""Reading a config from YAML files and ``section.key=value``, and describing its keys."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from synpol.config.recipe import Config
from synpol.config.section import AXIS_TAGS, Section
from synpol.config.source import TAGS, ImageSource
from synpol.config.text import DEPTH, LENGTH, parse_yaml, shortened
from synpol.errors import InputError, nearest

#: characters of a ``section.key=value`` that messages show
_SHOWN = 200
#: wrong values that a message lists
_LISTED = 20
#: parts of pydantic's places that are no keys
_TAGS = (*TAGS, *AXIS_TAGS)
#: a path that begins in a home folder, alone or after a scheme
_HOME = re.compile(r"(\w+://)?(~(?:[\w.-]*/.*)?)", re.DOTALL)


def load_config(sources: Sequence[str]) -> Config:
    """Read a config: YAML files, later ones over earlier ones, then ``section.key=value``.

    Parameters
    ----------
    sources : sequence of str
        At least one file; values are YAML, so ``train.patch=[12,96,96]`` works.

    Raises
    ------
    InputError
        A missing file, bad YAML, an unknown key (with the near misses), a bad value.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in sources:
        if "=" in source and not os.path.exists(source):  # Path.exists raises on long names
            key, _, text = source.partition("=")
            source = source if len(source) <= _SHOWN else f"{source[:_SHOWN]}..."
            parts = key.split(".")
            if len(parts) > DEPTH:
                raise InputError(f"{source}: no key has {len(parts)} parts")
            layer: Any = parse_yaml(text, f"{source}: the value is not YAML of a config")
            for part in reversed(parts):
                layer = {part: layer}
        else:
            layer = _read_yaml(source)
        _merge(merged, layer, source, "", origin)
    _check_keys(Config, merged, "", origin)
    try:
        return Config.model_validate(merged)
    except pydantic.ValidationError as error:
        raise InputError(_explain(error, origin)) from None


def read_section[S: Section](kind: type[S], values: dict[str, Any], path: str) -> S:
    """Check a section whose kind only the reader of its key knows.

    Parameters
    ----------
    kind : type of Section
    values : dict
        Content of the section.
    path : str
        Key of the section in the config.

    Raises
    ------
    InputError
        An unknown key (with the near misses), a bad value.
    """
    _check_keys(kind, values, f"{path}.", {})
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(_explain(error, {}, f"{path}.")) from None


def _read_yaml(path: str) -> dict[str, Any]:
    file = Path(path)
    if not os.path.isfile(path):
        here = file.parent if file.parent.is_dir() else Path(".")
        known = [str(p) for p in here.glob("*.y*ml")]
        raise InputError(
            f"there is no config file {path}{nearest(path, known)}"
            if path.endswith((".yaml", ".yml"))
            else f"{shortened(path)} is neither a YAML file nor section.key=value"
        )
    try:
        with open(path, encoding="utf-8") as content:
            text = content.read(LENGTH + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    found = parse_yaml(text, f"{path} is not YAML of a config")
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold `key: value` lines")
    return found


def _merge(
    into: dict[str, Any], layer: dict[str, Any], source: str, prefix: str, origin: dict[str, str]
) -> None:
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, f"{path}.", origin)
        else:
            into[key] = _copied(value, path, source)
            origin[path] = source


def _copied(value: Any, path: str, source: str) -> Any:
    """Copy a value so that nothing is shared: YAML anchors make one object of two places.

    A path in a home folder (``~/data``, ``~name/data``) is written out.
    """
    if isinstance(value, dict):
        return {k: _copied(v, f"{path}.{k}", source) for k, v in value.items()}
    if isinstance(value, list):
        return [_copied(v, path, source) for v in value]
    return _without_tilde(value, path, source) if isinstance(value, str) else value


def _without_tilde(text: str, path: str, source: str) -> str:
    found = _HOME.fullmatch(text)
    if not found:
        return text
    scheme, place = found[1] or "", os.path.expanduser(found[2])
    if place.startswith("~"):
        raise InputError(
            f"{source}: {path} is {shortened(text)}, but no home folder "
            f"{place.partition('/')[0]:.80} is known "
            "here; write the path out"
        )
    return scheme + place


def _sections(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_sections(kind) for kind in typing.get_args(annotation))
    return next((kind for kind in found if kind), None)


def _check_keys(
    model: type[Section], values: dict[str, Any], prefix: str, origin: dict[str, str]
) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in model.model_fields:
            path = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
            known = {f"{prefix}{name}" for name in model.model_fields}
            elsewhere = [p for p, *_ in describe(Config) if p.rsplit(".", 1)[-1] == str(key)]
            hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(path, known)
            raise InputError(f"{_where(path, origin)}: unknown key {path!r}{hint}")
        inner = _sections(model.model_fields[key].annotation)
        for each in value if isinstance(value, list) else [value]:
            if inner and isinstance(each, dict):
                _check_keys(inner, each, f"{path}.", origin)


def _where(path: str, origin: dict[str, str]) -> str:
    while path:
        if path in origin:
            return origin[path]
        path = path.rpartition(".")[0]
    return "config"


def _explain(error: pydantic.ValidationError, origin: dict[str, str], prefix: str = "") -> str:
    lines, found = [], error.errors()
    for one in found[:_LISTED]:
        path = (prefix + ".".join(str(p) for p in one["loc"] if p not in _TAGS)).rstrip(".")
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "missing":
            message = "this key is required"
        elif path and one["type"] != "value_error":
            message = f"{message} (it is {shortened(one['input'])})"
        where = _where(path, origin) if path else ", ".join(dict.fromkeys(origin.values()))
        lines.append(f"{where}: {path + ': ' if path else ''}{message}")
    if len(found) > _LISTED:
        lines.append(f"... and {len(found) - _LISTED} more wrong values")
    return "\n".join(lines)


def describe(model: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """List every key with its type, default and meaning.

    Yields
    ------
    (key, type, default, meaning)
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _sections(field.annotation)
        listed = typing.get_origin(field.annotation) is list
        if inner and inner is not ImageSource and not listed and field.default is not None:
            yield from describe(inner, f"{path}.")
            continue
        default = "required" if field.is_required() else _plain(field.default)
        yield path, _type_name(field.annotation), default, field.description or ""
        if inner and inner is not ImageSource:  # which has a table of its own
            yield from describe(inner, f"{path}[]." if listed else f"{path}.")


def _plain(value: Any) -> str:
    return (
        yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
        .removesuffix("...\n")
        .strip()
    )


def _type_name(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0])
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (types.UnionType, typing.Union):
        names = (_type_name(a) for a in args if a is not type(None))
        return " or ".join(dict.fromkeys(names))
    if origin is list:
        return f"list of {_type_name(args[0])}"
    if origin is dict:
        return f"mapping of {_type_name(args[0])} to {_type_name(args[1])}"
    if annotation is Any:
        return "anything"
    if origin is tuple:
        return f"{len(args)} {_type_name(args[0])}s"
    if annotation is ImageSource:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return {"str": "text", "float": "number", "int": "whole number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", str(annotation)), str(annotation)
    )
