"""YAML read as data, from the parser's events: mappings of mappings of scalars, no more.

PyYAML's safe loader makes no foreign objects, but it expands aliases (ten lines become gigabytes)
and silently drops repeated keys. A latency table needs no anchors, aliases, tags or lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import yaml

from latbench.tables.importers.base import ForeignFormatError, Pairs, read_text, shown

_MAX_DEPTH = 2
_TOO_DEEP = "its YAML is nested more deeply than {key: {mean: ms}}"
_OPEN_BRACKETS = 100  # at once: what some releases of the parser refuse before the first event
# a bad \U escape is a ValueError or an OverflowError
_NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError, StopIteration)
_SPECIAL = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}


def read_yaml(raw: bytes) -> Pairs:
    """The mapping that is the file's one document; scalars stay texts.

    Raises:
        ForeignFormatError: No YAML, truncated, or with more in it than a table needs.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times as fast
    try:
        events = _plain(yaml.parse(read_text(raw), Loader=loader))
        for expected in (yaml.StreamStartEvent, yaml.DocumentStartEvent, yaml.MappingStartEvent):
            if not isinstance(next(events), expected):
                raise ForeignFormatError("it holds no YAML mapping")
        content = _mapping(events, depth=1)
        for expected in (yaml.DocumentEndEvent, yaml.StreamEndEvent):
            if not isinstance(next(events), expected):
                raise ForeignFormatError("it holds more than one YAML document")
    except _NO_YAML as error:
        deep = _open_brackets(raw) > _OPEN_BRACKETS
        raise ForeignFormatError(_TOO_DEEP if deep else "it is not YAML, or truncated") from error
    return content


def _open_brackets(raw: bytes) -> int:
    """The most brackets that are open at once, those in texts and comments counted as well.

    From 6.0.4 on PyYAML's scanner refuses deep nesting. It looks ahead, so the error comes before
    the events that show the nesting, and its words are no interface.
    """
    steps = (1 if bracket in b"[{" else -1 for bracket in re.findall(rb"[][{}]", raw))
    return max(accumulate(steps), default=0)


def yaml_number(text: object) -> object:
    """A scalar as a number; the text itself where it is none."""
    if not isinstance(text, str):
        return text
    try:
        return float(_SPECIAL.get(text.lower(), text))
    except ValueError:
        return text


def _plain(events: Iterator[Any]) -> Iterator[Any]:
    """The events, as long as none of them is an alias or carries an anchor or a tag."""
    for event in events:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ForeignFormatError("it uses YAML anchors and aliases: save it with them resolved")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ForeignFormatError(f"it has the YAML tag {shown(tag)}: save it as plain numbers")
        yield event


def _mapping(events: Iterator[Any], *, depth: int) -> Pairs:
    pairs = Pairs()
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        key, value = _scalar(event), next(events)
        if isinstance(value, yaml.MappingStartEvent) and depth < _MAX_DEPTH:
            pairs.append((key, _mapping(events, depth=depth + 1)))
        else:
            pairs.append((key, _scalar(value)))
    return pairs


def _scalar(event: Any) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise ForeignFormatError(_TOO_DEEP)
    return str(event.value)
