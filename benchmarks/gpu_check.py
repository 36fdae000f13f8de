"""One GPU of NVIDIA, checked: do trainings and measurements do there what they do on the CPU?

    python benchmarks/gpu_check.py -o FOLDER [--minutes 8] [--only NAME,...] [--list]

Runs a list of items, each in a process of its own with a time limit: a hang, a crash or a CUDA
error in one does not touch the others. ``FOLDER/check.json`` and ``FOLDER/check.txt`` are
rewritten after every item, so that a check that is ended early leaves what was done. The text,
below 100 lines, is printed as well, item by item. The exit code is 1 if an item failed, and 0
without a GPU, where every item says so.

It needs a machine with CUDA, torch, numpy, scipy, onnx, onnxruntime, scikit-learn, safetensors and
pytest. Packages that a bare CUDA machine lacks are fetched elsewhere and carried along:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d wheels \\
        click rich markdown-it-py mdurl msgspec lmdb hypothesis sortedcontainers
    for wheel in wheels/*.whl; do python -m zipfile -e $wheel packages; done
    PYTHONPATH=$PWD:$PWD/packages python benchmarks/gpu_check.py -o FOLDER
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import traceback
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.plan import ITEMS, Item, allowed_s
from benchmarks.gpu.record import Record, write_json
from benchmarks.gpu.running import FAILED, NO_GPU, NO_TIME, TIMED_OUT, item_command, run_item
from benchmarks.gpu.text import text_of


def main() -> None:
    """Run the items, or be one of them, or be a side of a comparison in one of them."""
    options = _parse()
    if options.list:
        print("\n".join(f"{item.name:12} {item.usual_s:4.0f} s" for item in ITEMS))
    elif options.serve:
        item, *arguments = options.serve
        _module(_named(item)).serve(Conditions(options.on, 0.0, Path(), monotonic()), *arguments)
    elif options.item:
        _be_item(options)
    else:
        sys.exit(_run_all(options))


def _parse() -> Namespace:
    parser = ArgumentParser(description="Check trainings and measurements on an NVIDIA GPU.")
    parser.add_argument("-o", "--output", type=Path, help="folder of results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all items (default 8)")
    parser.add_argument("--only", help="names of items with commas between")
    parser.add_argument("--list", action="store_true", help="name the items")
    parser.add_argument("--on", choices=("cuda", "cpu"), default="cuda", help=SUPPRESS)
    parser.add_argument("--item", help=SUPPRESS)
    parser.add_argument("--seconds", type=float, help=SUPPRESS)
    parser.add_argument("--serve", nargs="+", help=SUPPRESS)
    options = parser.parse_args()
    if not (options.list or options.serve or options.output):
        parser.error("give a folder for the results: -o FOLDER")
    unknown = {*(options.only or "").split(",")} - {"", *(item.name for item in ITEMS)}
    if unknown:
        names = ", ".join(item.name for item in ITEMS)
        parser.error(f"no such item: {', '.join(sorted(unknown))}; choose from {names}")
    return options


def _named(name: str) -> Item:
    return next(item for item in ITEMS if item.name == name)


def _module(item: Item) -> Any:
    return importlib.import_module(f"benchmarks.gpu.{item.module}")


def _be_item(options: Namespace) -> None:
    """Do one item; its findings go into its file, what it prints into its log."""
    item, began = _named(options.item), monotonic()
    record = Record(options.output / f"{item.name}.json")
    if options.on == "cuda":
        from latbench.profilers.gpu import no_gpu

        why = no_gpu()
        if why is not None:
            record.add(why)
            record.end(NO_GPU)
            return
    folder = options.output / item.name
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier check
    folder.mkdir()
    try:
        _module(item).run(
            Conditions(options.on, options.seconds, folder, began), record, *item.arguments
        )
    except Exception:
        traceback.print_exc()
        record.end(FAILED)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # what a broken CUDA context does at exit can hang


def _run_all(options: Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the item that runs, too
    folder: Path = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    end = monotonic() + options.minutes * 60
    wanted = options.only.split(",") if options.only else [item.name for item in ITEMS]
    items = [item for item in ITEMS if item.name in wanted]
    found: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(items):
        seconds = allowed_s(item, items[index + 1 :], end - monotonic())
        if seconds < item.least_s and options.on == "cuda":
            found[item.name] = {"status": NO_TIME, "seconds": 0.0, "lines": [], "figures": {}}
        else:
            command = item_command(Path(__file__), options.on, item.name, folder, seconds)
            found[item.name] = run_item(command, folder, item.name, seconds=seconds)
        _write(folder, found)
        print(text_of({item.name: found[item.name]}), flush=True)
    return int(any(each["status"] in (FAILED, TIMED_OUT) for each in found.values()))


def _write(folder: Path, found: dict[str, dict[str, Any]]) -> None:
    write_json(folder / "check.json", found)
    (folder / "check.txt").write_text(text_of(found) + "\n")


if __name__ == "__main__":
    main()
