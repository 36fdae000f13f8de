"""Numbers of a page as short texts."""

from __future__ import annotations

from latbench.units import format_ms

_NO_BREAK = "\N{NO-BREAK SPACE}"


def latency(latency_ms: float) -> str:
    """A latency with its unit, on one line."""
    return format_ms(latency_ms).replace(" ", _NO_BREAK)


def ms(latency_ms: float | None) -> str:
    """A latency in a column of latencies: four digits, without the unit; empty for None."""
    if latency_ms is None:
        return ""
    return f"{latency_ms:.4g}" if abs(latency_ms) < 9999.5 else f"{latency_ms:.0f}"


def percent(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """A fraction in per cent; empty for None."""
    if value is None:
        return ""
    return f"{value:{'+' if signed else ''}.{digits}%}"


def span_ms(low_ms: float | None, high_ms: float | None) -> str:
    """An interval of latencies; empty if an end is unknown."""
    if low_ms is None or high_ms is None:
        return ""
    low, high = format_ms(low_ms), format_ms(high_ms)
    return f"{low.split()[0] if low.split()[-1] == high.split()[-1] else low} to {high}"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def date(timestamp: str) -> str:
    """An ISO 8601 date with its time to the minute, UTC."""
    return timestamp[:16].replace("T", " ") + " UTC" if timestamp else ""
