"""Latencies, durations and large counts as people type them: always with a unit."""

from __future__ import annotations

import math
import re

from latbench.errors import InvalidValueError

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*", re.IGNORECASE)
_MS_PER = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_S_PER = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_ONES_PER = {"k": 1e3, "m": 1e6, "g": 1e9}


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


def parse_count(text: str) -> float:
    """Read a count such as ``500K``, ``30M`` or ``1.2G``; return ones.

    Raises:
        InvalidValueError: The unit is missing or unknown, or the count is not positive.
    """
    return _parse(text, _ONES_PER, what="count", example="500K, 30M or 1.2G")


def _parse(text: str, factors: dict[str, float], *, what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in factors:
        raise InvalidValueError(f"{text!r} is not a {what}: type a number with its unit, {example}")
    value = float(match.group(1)) * factors[unit]
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{text!r} is not a {what}: it must be positive and finite")
    return value


def format_ms(latency_ms: float) -> str:
    """A latency with four significant digits, in ms, or in µs below 0.1 ms."""
    if abs(latency_ms) < 0.1:
        return f"{latency_ms * 1e3:.4g} µs"
    return f"{latency_ms:.4g} ms"


def format_s(duration_s: float) -> str:
    """A duration as ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
