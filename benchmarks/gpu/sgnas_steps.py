"""Supernet step and architecture step of SGNAS, beside a plain implementation."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from benchmarks.gpu.stepping import compare, serve_side
from benchmarks.sgnas_sides import ARCHITECTURE, SUPERNET, sgnas_step
from nas.spaces import make_space
from nas.training.torch_device import TorchDevice

_COLLECTING = f"{ARCHITECTURE}, weights' gradients as published"
_WHOSE = {SUPERNET: "plain", ARCHITECTURE: "plain, frozen", _COLLECTING: "plain, collecting"}


def run(conditions: Conditions, record: Record) -> None:
    """All kinds of step in bf16."""
    size, batch_size = (32, 4) if conditions.tiny else (224, 128)
    record.add(f"sgnas, {size} px, 100 classes, four paths a supernet step")
    compare(
        conditions,
        record,
        "sgnas-steps",
        precisions=("fp32",) if conditions.tiny else ("bf16",),
        kinds=tuple(_WHOSE),
        batch_size=batch_size,
    )


def serve(conditions: Conditions, side: str, batch_size: str) -> None:
    """Be one side."""

    space = make_space("sgnas", 32 if conditions.tiny else 224, 100)

    def build(
        side: str, kind: str, batch_size: int, device: TorchDevice
    ) -> dict[str, Callable[[], object]]:
        whose = _WHOSE[kind] if side == "plain" else side
        step = SUPERNET if kind == SUPERNET else ARCHITECTURE
        return {kind: sgnas_step(step, whose, space, batch_size, device=device, same_paths=True)}

    serve_side(conditions, build, side, batch_size, tuple(_WHOSE))
