"""The code blocks of the documentation, and what its commands name.

A block runs as it stands. Under a line `<!-- check: arguments -->` it needs GPUs, released weights or data: it is
read as the programs would read it, but nothing starts.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from detectron2.config import get_cfg

from oneformer.commands.train import load_model as load_oneformer
from segcore.config_files import merge_file, merge_pairs
from segcore.engine.setup import architecture_of, build_config
from seggpt.commands.train import load_model as load_seggpt

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "MODEL_ZOO.md", REPO / "datasets" / "README.md",
         *sorted((REPO / "docs").glob("*.md"))]

_FENCE = re.compile(r"^(?P<marker><!--[^\n]*-->\n)?(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$",
                    re.MULTILINE | re.DOTALL)
_MARKERS = {None: "run", "<!-- check: arguments -->": "arguments"}
# Words of a command that name a file of the clone by the folder they start with.
_FOLDERS = ("configs/", "demo/", "tools/", "datasets/", "benchmarks/")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, "sh", "python", ..., and "run" or "arguments"."""

    where: str
    language: str
    mode: str
    text: str


def read_blocks(name: str, text: str) -> list[Block]:
    """The blocks of a page.

    Raises:
        ValueError: for a fence that is not closed, or a marker that nobody knows.
    """
    blocks = []
    for found in _FENCE.finditer(text):
        marker = found["marker"] and found["marker"].strip()
        if marker not in _MARKERS:
            raise ValueError(f"{name}: unknown marker {marker!r} before a block")
        line = text.count("\n", 0, found.start("ticks")) + 1
        blocks.append(Block(f"{name}:{line}", found["language"], _MARKERS[marker], found["text"]))
    if len(re.findall(r"^```", text, re.MULTILINE)) != 2 * len(blocks):
        raise ValueError(f"{name}: a block is not closed, or its fence is indented")
    return blocks


def all_blocks() -> list[Block]:
    return [block for page in PAGES
            for block in read_blocks(page.relative_to(REPO).as_posix(), page.read_text(encoding="utf-8"))]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; a line that ends in a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


# ---------------------------------------------------------------- one command

def run_command(words: Sequence[str], mode: str, extras: set[str], projects: set[str]) -> None:
    """Run a command in this process and the working folder, or check what it names.

    Args:
        mode: "run" or "arguments". Commands that install, and torchrun, are only ever checked.
        extras, projects: what setup.py calls its extras, and the names of all it depends on.

    Raises:
        AssertionError, SystemExit: the command is wrong or ended with an error.
        ValueError: a kind of command that is not known here.
    """
    check_paths(words)
    program, *rest = words
    if program == "export" or "=" in program:
        return
    if program == "make":
        check_make(rest)
    elif program == "pip":
        check_pip(rest, extras, projects)
    elif program == "docker":
        assert rest[0] == "build" and rest[-1] == "." and (REPO / "Dockerfile").is_file(), words
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        launch = get_args_parser().parse_args(rest)
        check_arguments([launch.training_script, *launch.training_script_args])
    elif program == "python" and rest[0] == "tools/install_detectron2.py":
        check_arguments(rest)
    elif program in ("python", "oneformer", "seggpt"):
        script = rest if program == "python" else ["-m", program, *rest]
        start(script) if mode == "run" else check_arguments(script)
    else:
        raise ValueError(f"{shlex.join(words)!r}: no test knows how to check {program!r}")


def start(words: Sequence[str]) -> None:
    """`python WORDS` in this process. Raises SystemExit if it ends with an error."""
    module = words[0] == "-m"
    name, arguments = (words[1], words[2:]) if module else (words[0], words[1:])
    with mock.patch.object(sys, "argv", [name, *arguments]), mock.patch.object(sys, "path", list(sys.path)):
        try:
            if module:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(name, run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise


class _Parsed(BaseException):
    """Carries the first command line that a program read, and ends the program."""


def parse_only(words: Sequence[str]) -> argparse.Namespace:
    """What `python WORDS` makes of its command line; it ends there. SystemExit if it refuses."""
    def reading(parse):
        def then_stop(self, *args, **kwargs):
            raise _Parsed(parse(self, *args, **kwargs))
        return then_stop

    names = ("parse_args", "parse_intermixed_args")
    with mock.patch.multiple(
        argparse.ArgumentParser, **{name: reading(getattr(argparse.ArgumentParser, name)) for name in names}
    ):
        try:
            start(words)
        except _Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f"{shlex.join(words)} read no command line")


# ---------------------------------------------------------------- what it names

def check_arguments(words: Sequence[str]) -> None:
    """The script exists, takes the options, and its config takes the KEY VALUE pairs."""
    args = parse_only(words)
    config = getattr(args, "config_file", "") or getattr(args, "config", "")
    pairs = list(getattr(args, "opts", None) or [])
    if config:
        check_config(words, config, pairs, getattr(args, "eval_only", False))
    else:
        assert not pairs or hasattr(args, "weights"), f"{shlex.join(words)}: settings {pairs} without a config"


def check_config(words: Sequence[str], config: str, pairs: list[str], eval_only: bool) -> None:
    args = argparse.Namespace(config_file=config, opts=pairs, eval_only=eval_only, resume=False)
    models = {"OneFormer": load_oneformer, "SegGPT": load_seggpt, "SegGPTTuner": load_seggpt}
    add_config = models[architecture_of(args)]()
    cfg = get_cfg()
    add_config(cfg)
    merge_file(cfg, config)
    merge_pairs(cfg, pairs)
    # The engine's own checks read the labels of custom sets, which are not here.
    if words[0] == "train_net.py" and not cfg.DATASETS.CUSTOM:
        with mock.patch("torch.cuda.is_available", lambda: True):  # the recipes are for machines that have one
            build_config(args, [add_config])


def check_make(words: Sequence[str]) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in words if "=" not in word and word not in phony[1].split()]
    assert not unknown, f"the Makefile has no target {unknown}"


def check_pip(words: Sequence[str], extras: set[str], projects: set[str]) -> None:
    assert words[0] == "install", words
    options = iter(words[1:])
    for word in options:
        if word in ("--index-url", "-r"):
            next(options)
        elif word.startswith("-"):
            assert word in ("-e", "--no-build-isolation", "--upgrade"), f"unknown option {word} of pip install"
        elif found := re.fullmatch(r"\.(?:\[([\w,]+)\])?", word):
            asked = set(found[1].split(",")) if found[1] else set()
            assert asked <= extras, f"setup.py has no extra {asked - extras}"
        elif not word.endswith(".whl"):
            name = re.split(r"[<>=\[]", word)[0].lower().replace("_", "-")
            assert name in projects, f"pip install {word}: setup.py does not name it"


def check_paths(words: Sequence[str]) -> None:
    for word in words:
        if word.startswith(_FOLDERS):
            assert (REPO / word).exists(), f"{shlex.join(words)}: {word} does not exist"


def link_clone(folder: Path) -> None:
    """Put the clone's top level at hand in a scratch folder, but for what running writes."""
    for path in REPO.iterdir():
        if path.name not in ("output", "build", "dist") and not path.name.startswith("."):
            os.symlink(path, folder / path.name, target_is_directory=path.is_dir())
