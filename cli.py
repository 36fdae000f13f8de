"""Entry point of the command line: commands by name, one-line errors, exit codes, signals.

The module of a command is imported when the command is called. Exit codes: 0 for success; 1 for a
failed check or verdict, whose result is still printed; 2 for wrong use or bad input, with one line
that says what to do next; 130 for an interrupt.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from types import FrameType
from typing import NoReturn

import click

from latbench.commands.group import LazyGroup
from latbench.commands.output import EXIT_INTERRUPTED, fail
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, file_error
from latbench.files import utf8
from latbench.report.streams import ReaderLeft, drop_output, prepare_streams, require_output, say

_SECTIONS = {
    "Measure your own networks": {
        "bench": "nas.commands.bench:bench",
        "explain": "nas.commands.explain:explain",
        "align": "nas.commands.align:align",
        "prune": "nas.commands.prune:prune",
    },
    "Measure a device": {
        "devices": "latbench.commands.devices:devices",
        "profile": "nas.commands.profile:profile",
        "calibrate": "nas.commands.calibrate:calibrate",
        "verify": "nas.commands.verify:verify",
        "table": "latbench.commands.table:table",
    },
    "Fit or search a network": {
        "spaces": "nas.commands.spaces:spaces",
        "cost": "nas.commands.cost:cost",
        "predict": "nas.commands.predict:predict",
        "fit": "nas.commands.fit:fit",
        "search": "nas.commands.search:search",
        "generate": "nas.commands.generate:generate",
        "generator": "nas.commands.generator:generator",
    },
    "Train and deploy it": {
        "train": "nas.commands.train:train",
        "evaluate": "nas.commands.evaluate:evaluate",
        "export": "nas.commands.export:export",
        "pack": "nas.commands.pack:pack",
        "report": "nas.commands.report:report",
    },
    "Try and extend latbench": {
        "demo": "nas.commands.demo:demo",
        "new": "nas.commands.new:new",
    },
}

latbench = LazyGroup(
    "latbench",
    _SECTIONS,
    help="Profile a device, search a network under a latency budget, verify the latency.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(package_name="latbench")(latbench)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Raise an interrupt; end at once while a module is imported, which C code may not survive."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"latbench: interrupted\n")
            os._exit(EXIT_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _run() -> int:
    """Run the command line; return its exit code."""
    require_output()
    try:
        code = latbench.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command line; an error that a user can cause prints one line and exits with 2."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    prepare_streams()
    as_json = "--json" in sys.argv
    try:
        sys.exit(_run())
    except LatbenchError as error:
        fail(error, as_json=as_json)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "latbench"
        message = " ".join(error.format_message().split())
        fail(InvalidValueError(f"{message} See `{where} --help`."), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        say(
            "interrupted: tables and run folders keep what was finished, and the same command "
            "continues from them; what keeps no file, such as bench, begins again"
        )
        sys.exit(EXIT_INTERRUPTED)
    except ReaderLeft:
        drop_output()
        sys.exit(0)
    except (OSError, sqlite3.Error) as error:  # a full disk, a file without permission, ...
        fail(file_error(error), as_json=as_json)
    except (
        UnicodeEncodeError
    ) as error:  # raised by a library that cannot open the file, such as TensorBoard
        name = utf8(error.object)
        fail(
            InvalidFileError(
                f"{name!r} cannot be used in the locale of this terminal: set LC_ALL=C.UTF-8, or "
                "choose a name of ASCII letters"
            ),
            as_json=as_json,
        )


if __name__ == "__main__":
    main()
