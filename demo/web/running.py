"""Which visitor's run goes on, so that Cancel can end it, wait for its end, and have the last word.

Gradio's own cancelling takes a run out of the queue; of one that goes on it closes the generator at some later
frame, and lets lines through that come after Cancel's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from .viewer import progress_bar

_LONGEST = 60.0  # seconds for the frame that is under way
_UNDERWAY = 0.3  # seconds for what a run has already sent


class Cancelled(Exception):
    """The visitor has cancelled the run."""


class Run:
    """One run: `check` at every step."""

    def __init__(self) -> None:
        self.asked, self.ended = threading.Event(), threading.Event()

    def check(self) -> None:
        """Raise Cancelled if the visitor asked for that."""
        if self.asked.is_set():
            raise Cancelled


class Running:
    """The runs that go on, by session; safe for several threads."""

    def __init__(self) -> None:
        self._runs: dict[str | None, Run] = {}

    @contextmanager
    def run(self, request: gr.Request | None) -> Iterator[Run]:
        """A run of the request's session goes on inside of the block, which Cancelled leaves quietly."""
        session, run = _session(request), Run()
        self._runs[session] = run
        try:
            yield run
        except Cancelled:
            pass
        finally:
            run.ended.set()
            if self._runs.get(session) is run:
                del self._runs[session]

    def cancelled(self, request: gr.Request | None = None) -> Iterator[str]:
        """The lines that Cancel shows: at once, and when the run has come to its end."""
        yield progress_bar(0, None, "Cancelling; the frame that is under way is finished first.")
        run = self._runs.get(_session(request))
        if run is not None:
            run.asked.set()
            run.ended.wait(_LONGEST)
        time.sleep(_UNDERWAY)
        yield progress_bar(0, 1, "Cancelled.")


def _session(request: gr.Request | None) -> str | None:
    return None if request is None else request.session_hash
