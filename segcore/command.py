"""A console program with subcommands; nothing is imported but the one that runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from segcore.script import USER_ERRORS

_DISTRIBUTION = "oneformer-seggpt"


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        about: what it does, in one line.
        module: has `main(argv, prog)`, which returns an exit status (None: 0) and whose ValueError, TypeError,
            ImportError and OSError are sentences for the user.
    """

    about: str
    module: str


def run_commands(
    prog: str, about: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None
) -> int:
    """Run the subcommand that the command line names; returns the exit status.

    Args:
        prog: the program's name.
        about: what it is, for --help.
        commands: by name.
        argv: without the program's name; the process's own by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        print(_help(prog, about, commands))
        return 0
    if name == "--version":
        print(f"{prog} {_version()}")
        return 0
    if name not in commands:
        print(f"{prog}: there is no command {name!r}; use one of {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(commands[name].module).main(argv[1:], f"{prog} {name}") or 0
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _help(prog: str, about: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    rows = "\n".join(f"  {name:<{width}}  {command.about}" for name, command in commands.items())
    return (
        f"usage: {prog} COMMAND ...\n\n{about.strip()}\n\ncommands:\n{rows}\n\n"
        f"`{prog} COMMAND --help` tells what each of them takes; `{prog} --version` which version this is."
    )


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "from a clone that is not installed"
