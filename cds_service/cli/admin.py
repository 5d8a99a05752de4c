"""`cds-service admin`: who may open the admin console. Made here, on the machine, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from cds_service.cli.errors import CommandError
from cds_service.pages.console_accounts import SHORTEST, Accounts
from cds_service.settings import Settings
from cds_service.state.desk import Desk
from cds_service.state.errors import StateError
from cds_service.state.store import Store

OPERATOR = "command line"
admin_app = typer.Typer(help="Who may open the admin console.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The name to log in with.")]


@admin_app.command("add")
def add(
    name: Name, role: Annotated[str, typer.Option(help="`view` reads, `change` switches as well.")] = "view"
) -> None:
    """Add an admin; asks for the password, or reads it as a line from standard input."""
    if sys.stdin.isatty():
        prompt = f"Password ({SHORTEST} characters or more)"
        password = typer.prompt(prompt, hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    with _desk() as (accounts, desk):
        accounts.add(name, role, password, datetime.now(UTC))
        desk.note(OPERATOR, "admin added", datetime.now(UTC), name=name, role=role)
        base = Settings.from_env().base_url
    Console().print(f"{name} may {role}; log in at {base}/admin", highlight=False, soft_wrap=True)


@admin_app.command("remove")
def remove(name: Name) -> None:
    """Remove an admin; whoever is logged in under the name is out at once."""
    with _desk() as (accounts, desk):
        accounts.remove(name)
        desk.note(OPERATOR, "admin removed", datetime.now(UTC), name=name)


@admin_app.command("unlock")
def unlock(name: Name) -> None:
    """Let an admin try again before the lock after wrong passwords is over."""
    with _desk() as (accounts, desk):
        accounts.unlock(name)
        desk.note(OPERATOR, "admin unlocked", datetime.now(UTC), name=name)


@admin_app.command("list")
def list_() -> None:
    """Names, roles, and whose account is locked."""
    with _desk() as (accounts, _):
        for account in accounts.all(datetime.now(UTC)):
            locked = ", locked" if account.locked else ""
            Console().print(f"{account.name}: {account.role}{locked}", highlight=False)


@contextmanager
def _desk() -> Iterator[tuple[Accounts, Desk]]:
    settings = Settings.from_env()
    try:
        # No outbox: a command answers no calls.
        with Store.open(
            settings.state_url, settings.state_dir, outbox_bytes=0, owner_url=settings.state_owner_url
        ) as store:
            accounts = Accounts(settings.state_dir)
            try:
                yield accounts, Desk(store)
            finally:
                accounts.close()
    except StateError as error:
        raise CommandError(str(error)) from None
