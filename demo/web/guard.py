"""What a visitor reads when something goes wrong: one sentence. The server goes on."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

_log = logging.getLogger(__name__)


def guarded(function: Callable) -> Callable:
    """Let a handler (function or generator) end in a sentence instead of a traceback.

    ValueError and OSError carry sentences that are meant for the visitor; any other error is a bug: it is logged
    whole on the server, and the visitor learns that much.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with _sentences(function.__name__):
                yield from function(*args, **kwargs)
    else:

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with _sentences(function.__name__):
                return function(*args, **kwargs)

    return wrapped


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except (ValueError, OSError) as error:
        _log.info("%s: %s", name, error)
        raise gr.Error(_capitalised(str(error)), duration=20, print_exception=False) from error
    except Exception as error:
        _log.exception("a request failed in %s", name)
        raise gr.Error(
            f"Something failed on the server ({type(error).__name__}); its log has the details. "
            "Other requests are not affected.",
            duration=20,
            print_exception=False,
        ) from error


def _capitalised(text: str) -> str:
    """A sentence begins with a capital, unless it begins with a file's name."""
    return text if "." in text.split(" ", 1)[0] else text[:1].upper() + text[1:]
