"""What the processes of one service with several workers have in common: they end with their parent, and plainly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from rich.console import Console

from cds_service.cli.main import expected

MISCONFIGURED = 2
"""Exit status of a process that told what is wrong with its settings: starting it again changes nothing."""


def end_with_parent(lifeline: int, stop: Callable[[], None]) -> None:
    """Call `stop` once the other end of this pipe is closed: the parent ended, however it did."""

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        stop()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def told(main: Callable[[], None]) -> None:
    """Run a process; what somebody can do something about is said in a line, as `cds-service` says it."""
    try:
        main()
    except Exception as error:
        if not expected(error):
            raise
        Console(stderr=True).print(f"[bold red]cds-service:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(MISCONFIGURED)
