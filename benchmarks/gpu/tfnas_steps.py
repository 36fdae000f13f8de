"""Weight step and architecture step of TF-NAS, beside a plain implementation."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from benchmarks.gpu.stepping import compare, serve_side
from benchmarks.tfnas_sides import Shape, our_steps, plain_steps
from nas.searchers.tfnas.searcher import TFNASRecipe
from nas.training.torch_device import TorchDevice

_KINDS = ("weight", "architecture")


def run(conditions: Conditions, record: Record) -> None:
    """Both kinds of step in bf16 and in fp32."""
    size, batch_size = (32, 4) if conditions.tiny else (224, 128)
    record.add(
        f"tfnas, {size} px, 100 classes; plain is eager, NCHW, a module an operation; "
        "fp32 with torch's own setting of TF32 on both sides"
    )
    compare(
        conditions,
        record,
        "tfnas-steps",
        precisions=("fp32",) if conditions.tiny else ("bf16", "fp32"),
        kinds=_KINDS,
        batch_size=batch_size,
    )


def serve(conditions: Conditions, side: str, batch_size: str) -> None:
    """Be one side."""

    def build(
        side: str, kind: str, batch_size: int, device: TorchDevice
    ) -> dict[str, Callable[[], object]]:
        shape = Shape(32 if conditions.tiny else 224, batch_size, same_paths=True)
        if side == "plain":
            return plain_steps(shape, device)
        return our_steps(shape, TFNASRecipe(precision=device.precision), device)

    serve_side(conditions, build, side, batch_size, _KINDS)
