"""`cds-service openapi`: what our routes take and answer, for whoever writes a client."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cds_service.openapi import served


def openapi(
    write: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
) -> None:
    """Print the OpenAPI 3.1 document that a running service has at /openapi.json."""
    if write is None:
        sys.stdout.buffer.write(served())
    else:
        write.write_bytes(served())
