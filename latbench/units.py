"""Reading and formatting of latencies, durations and large counts with their units.

Characters that Unicode treats as equivalent are accepted: both micro signs, full-width digits and
all kinds of spaces.
"""

from __future__ import annotations

import math
import re
import unicodedata

from latbench.errors import InvalidValueError
from latbench.files import utf8

_MU = "\N{GREEK SMALL LETTER MU}"  # equivalent to the micro sign
_NUMBER = re.compile(rf"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z{_MU}]*)\s*", re.IGNORECASE)
# other equivalences would change a number: a superscript 2 is not the digit 2
_SAME = {"<compat>", "<wide>", "<narrow>", "<noBreak>", "<square>", "<font>"}
_MS_PER = {"us": 1e-3, f"{_MU}s": 1e-3, "ms": 1.0, "s": 1e3}
_S_PER = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_ONES_PER = {"k": 1e3, "m": 1e6, "g": 1e9}
_BYTES_PER = {
    "b": 1.0,
    **{"kb": 1e3, "mb": 1e6, "gb": 1e9},
    **{"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
}
BARE_MILLIONS = 100_000
"""A count without a unit that is below this is in millions, because no network is so small."""


def parse_latency_ms(text: str) -> float:
    """Read a latency such as ``15ms``, ``3.218ms`` or ``0.8s``; return milliseconds.

    Raises:
        InvalidValueError: The unit is missing or unknown, or the latency is not positive.
    """
    return _parse(text, _MS_PER, what="latency", example="15ms or 0.8s")


def parse_duration_s(text: str) -> float:
    """Read a duration such as ``150s``, ``20min`` or ``2h``; return seconds.

    Raises:
        InvalidValueError: The unit is missing or unknown, or the duration is not positive.
    """
    return _parse(text, _S_PER, what="duration", example="150s, 20min or 2h")


def parse_bytes(text: str) -> float:
    """Read an amount of memory such as ``512KB``, ``2MB`` or ``1MiB``; return bytes.

    Raises:
        InvalidValueError: The unit is missing or unknown, or the amount is not positive.
    """
    return _parse(text, _BYTES_PER, what="memory", example="512KB, 2MB or 1MiB")


def parse_percent(text: str) -> float:
    """Read a percentage such as ``3%``; return a fraction.

    Raises:
        InvalidValueError: The sign is missing, or the number is not positive.
    """
    number, sign, rest = _spelled(text).strip().partition("%")
    if not sign or rest:
        raise InvalidValueError(
            f"{utf8(text)!r} is not a percentage: type a number with its sign, 3%"
        )
    return _parse(number, {"": 0.01}, what="percentage", example="3%")


def as_latency_ms(latency: str | float) -> float:
    """A latency as text with its unit, such as ``"15ms"``, or as a number of milliseconds.

    Raises:
        InvalidValueError: It is not positive and finite, or the text lacks its unit.
    """
    return parse_latency_ms(latency) if isinstance(latency, str) else _positive(latency, "latency")


def as_duration_s(duration: str | float) -> float:
    """A duration as text with its unit, such as ``"20min"``, or as a number of seconds.

    Raises:
        InvalidValueError: It is not positive and finite, or the text lacks its unit.
    """
    if isinstance(duration, str):
        return parse_duration_s(duration)
    return _positive(duration, "duration")


def as_bytes(memory: str | float) -> float:
    """An amount of memory as text with its unit, such as ``"2MB"``, or as a number of bytes.

    Raises:
        InvalidValueError: It is not positive and finite, or the text lacks its unit.
    """
    return parse_bytes(memory) if isinstance(memory, str) else _positive(memory, "memory")


def as_count(count: str | float) -> float:
    """A count as text such as ``"30M"`` (see ``parse_count``), or as a plain number.

    Raises:
        InvalidValueError: It is not positive and finite, or its unit is unknown.
    """
    return parse_count(count) if isinstance(count, str) else _positive(count, "count")


def as_millions(count: str | float) -> float:
    """A count as text such as ``"320M"``, or as a number of millions; return millions.

    Raises:
        InvalidValueError: It is not positive and finite, or its unit is unknown.
    """
    return parse_count(count) / 1e6 if isinstance(count, str) else _positive(count, "count")


def _positive(value: float, what: str) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{value!r} is not a {what}: it must be positive and finite")
    return float(value)


def parse_count(text: str) -> float:
    """Read a count such as ``500K``, ``30M`` or ``1.2G``; return the plain number.

    A number without a unit is in millions if it is below ``BARE_MILLIONS``.

    Raises:
        InvalidValueError: The unit is unknown, or the count is not positive.
    """
    return _parse(text, _bare(text) | _ONES_PER, what="count", example="30M, 500K or 1.2G")


def parse_millions(text: str) -> float:
    """Read a count without a unit, such as ``320``, as ``parse_count`` does; return millions.

    Raises:
        InvalidValueError: The text has a unit, or the count is not positive.
    """
    ones = _parse(text, _bare(text), what="count in millions", example="320 for 320 million")
    return ones / 1e6


def _bare(text: str) -> dict[str, float]:
    """Factor of a count without a unit."""
    try:
        return {"": 1e6 if float(_spelled(text)) < BARE_MILLIONS else 1.0}
    except ValueError:
        return {"": 1.0}


def _parse(text: str, factors: dict[str, float], *, what: str, example: str) -> float:
    match = _NUMBER.fullmatch(_spelled(text))
    unit = match.group(2).lower() if match else None
    if match is None or unit not in factors:
        form = "a positive bare number" if factors.keys() == {""} else "a number with its unit"
        raise InvalidValueError(f"{utf8(text)!r} is not a {what}: type {form}, {example}")
    value = float(match.group(1)) * factors[unit]
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{utf8(text)!r} is not a {what}: it must be positive and finite")
    return value


def _spelled(text: str) -> str:
    """Text with equivalent characters replaced; those that would change the number stay."""
    whole = utf8(text)
    kinds = {unicodedata.decomposition(sign).partition(" ")[0] for sign in whole}
    changed = {kind for kind in kinds if kind.startswith("<")} - _SAME
    return whole if changed else unicodedata.normalize("NFKC", whole)


def format_ms(latency_ms: float) -> str:
    """Latency as text with four significant digits: in ms, µs below 0.1 ms, s from 10 s on."""
    if abs(latency_ms) < 0.1:
        return f"{latency_ms * 1e3:.4g} µs"
    if abs(latency_ms) >= 9999.5:  # would have five digits
        return f"{latency_ms / 1e3:.4g} s"
    return f"{latency_ms:.4g} ms"


def format_span_ms(low_ms: float, high_ms: float) -> str:
    """An interval of latencies as text: ``98 µs to 0.104 ms``."""
    return f"{format_ms(low_ms)} to {format_ms(high_ms)}"


def format_s(duration_s: float) -> str:
    """Duration as text: ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
