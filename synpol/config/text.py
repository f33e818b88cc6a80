"""Read YAML that a person wrote, or somebody else sent: bounded, and every error names its line.

YAML lets a few bytes stand for gigabytes (an alias of aliases), nests without end, and turns texts
into dates. The limits here are far above what a config needs.
"""

from __future__ import annotations

from typing import Any

import yaml

from synpol.errors import InputError

#: characters of a config
LENGTH = 2**20
#: values of a config; one that an alias repeats counts again
VALUES = 50_000
#: levels of sections and lists, one in another
DEPTH = 30
#: whole numbers lie between this and its negative
LARGEST = 2**64


class _Loader(yaml.SafeLoader):
    """Read safe YAML in which a key may stand only once, and in which everything is bounded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = self._depth = 0
        self._sizes: dict[int, int] = {}  # of finished nodes

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._count
        if self._depth > DEPTH:
            raise _refusal(f"more than {DEPTH} levels of sections and lists", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal(f"{event.anchor!r} is part of itself", event.start_mark)
            self._count += self._sizes[id(node)]
        else:
            self._count += 1
            self._sizes[id(node)] = self._count - before
        if self._count > VALUES:
            raise _refusal(f"more than {VALUES} values, aliases written out", event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _refusal(f"the key {shortened(key.value)} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # a date, a number or a tag that its text does not fit
            what = shortened(node.value) if isinstance(node, yaml.ScalarNode) else "what is here"
            kind = node.tag.rpartition(":")[2]
            said = str(error) or type(error).__name__
            raise _refusal(f"{what} is no {kind} ({said:.80})", node.start_mark) from None
        if isinstance(value, int) and not -LARGEST < value < LARGEST:
            raise _refusal("a whole number of more than 64 bits", node.start_mark)
        if isinstance(value, str) and not _is_text(value):
            raise _refusal(f"{shortened(value)} holds what no text can hold", node.start_mark)
        return value


def _is_text(value: str) -> bool:
    """Whether a text can be encoded and be part of a path."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:  # half of a character
        return False


def _refusal(why: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, why, mark)


def parse_yaml(text: str, refused: str) -> Any:
    """Return what a text says.

    Parameters
    ----------
    text : str
        YAML of one document.
    refused : str
        Beginning of the message where that fails: where the text is from.

    Raises
    ------
    InputError
        It is no YAML, or larger, deeper or more entangled than a config can be.
    """
    if len(text) > LENGTH:
        raise InputError(f"{refused}: it has {len(text)} characters, more than {LENGTH}")
    try:
        loader = _Loader(text)  # it looks for characters that no YAML has
    except yaml.YAMLError as error:
        raise InputError(f"{refused}: {shortened(str(error), 300)}") from None
    try:
        return loader.get_single_data()
    except Exception as error:  # its scanner raises others than YAMLError for some escapes
        mark = getattr(error, "problem_mark", None) or loader.get_mark()
        why = getattr(error, "problem", None) or str(error) or type(error).__name__
        begun = getattr(error, "context_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        place += f" (of what begins in line {begun.line + 1})" if begun else ""
        raise InputError(f"{refused}: {place}: {why:.300}") from None
    finally:
        loader.dispose()


def shortened(value: object, length: int = 80) -> str:
    """Show a value in a message, without its middle where it is long.

    Examples
    --------
    >>> shortened([1, 2])
    '[1, 2]'
    >>> shortened("a" * 100, 12)
    "'aaaa...aaa'"
    """
    text = repr(value)
    if len(text) <= length:
        return text
    head = (length - 3 + 1) // 2
    return f"{text[:head]}...{text[len(text) - (length - 3 - head) :]}"
