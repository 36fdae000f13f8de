"""Figure of one network: its blocks by stage, each with its share of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latbench.report.page.charts import bar_chart
from latbench.report.page.document import Figure, Grid
from latbench.report.page.wording import percent

_FIXED = 2  # colour of what no choice changes: stem and head


@dataclass(frozen=True)
class DrawnBlock:
    """One block of a drawn network.

    Attributes:
        stage: Name of its stage, such as ``stage 3``, ``stem`` or ``head``.
        name: Its place and choice in few words, such as ``3.1 k5_e6_se 560``.
        block: The block with its shapes in words.
        amount: What it adds to the whole, in the unit of the drawing.
        low: Lower end of the amount's interval; None without one.
        high: Upper end of the amount's interval.
        source: Origin of the amount, in a word.
        chosen: Whether the block belongs to a choice.
    """

    stage: str
    name: str
    block: str
    amount: float
    low: float | None = None
    high: float | None = None
    source: str = ""
    chosen: bool = True


def network_figure(title: str, caption: str, blocks: Sequence[DrawnBlock], *, unit: str) -> Figure:
    """A network as bars, from its input to its output.

    Args:
        title: Title of the figure.
        caption: Caption of the figure.
        blocks: The blocks in the order of execution.
        unit: Unit of the amounts, such as ms.
    """
    total = sum(block.amount for block in blocks)
    stages = list(dict.fromkeys(block.stage for block in blocks if block.chosen))
    names = [block.name for block in blocks]
    rows, cells = [], []
    for number, block in enumerate(blocks, start=1):
        share = block.amount / total if total else 0.0
        rows.append(
            {
                "part": _different(names, number - 1),
                "stage": block.stage,
                "block": block.block,
                "amount": block.amount,
                "share": share,
                "even": stages.index(block.stage) % 2 if block.chosen else _FIXED,
            }
        )
        interval = "" if block.low is None else f"{block.low:.4g} to {block.high:.4g}"
        cells.append(
            (
                block.stage,
                block.name,
                block.block,
                f"{block.amount:.4g}",
                interval,
                percent(share),
                block.source,
            )
        )
    intervals = any(block.low is not None for block in blocks)
    headers = ("stage", "choice", "block", unit, "interval", "share", "price")
    kept = [0, 1, 2, 3, *([4] if intervals else []), 5, *([6] if intervals else [])]
    return Figure(
        title,
        caption,
        bar_chart(rows, unit=unit),
        Grid(
            tuple(headers[column] for column in kept),
            tuple(tuple(row[column] for column in kept) for row in cells),
            labels=3,
        ),
        wide=True,
    )


def _different(names: Sequence[str], place: int) -> str:
    """The name at a place, with a number if it occurs several times."""
    name = names[place]
    return f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
