"""How a script that only parses and calls ends when its user can mend what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

# What libraries raise for wrong input, missing files and packages; anything else is our fault and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, ImportError, OSError)


def run_script(work: Callable[[], int | None]) -> None:
    """Call `work` and exit with what it returns; an error that the user can mend is one line and status 1."""
    try:
        sys.exit(work())
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
