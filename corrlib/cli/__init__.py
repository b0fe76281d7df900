"""The command line: ``corrlib COMMAND``, also ``python -m corrlib COMMAND``.

Commands parse, call the library and print; what they do lives there. Each family of commands is
one module here; it imports the library when it runs, so that ``--help`` is quick. Exit status: 0
when a command did what was asked, 2 for bad input (one line on stderr), 130 when interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from corrlib import __version__
from corrlib.cli import (
    ablation,
    bench,
    course,
    doctor,
    evaluate,
    fetch,
    propagate,
    score,
    tour,
    train,
)
from corrlib.cli.options import Parser, check_json, first_process
from corrlib.errors import InputError

FAMILIES = (doctor, tour, fetch, train, propagate, evaluate, score, ablation, bench, course)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Of the processes that torchrun starts only the first prints.
    """
    if first_process():
        return _main(arguments)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        options = _parser().parse_args(arguments)
        options.arguments = arguments
        check_json(options.json)
        return options.run(options)
    except InputError as error:
        print(f"corrlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("corrlib: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, say `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"corrlib: {error}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    parser = Parser(prog="corrlib", description="Video correspondence without labels.")
    parser.add_argument("--version", action="version", version=f"corrlib {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.add(commands)
    return parser
