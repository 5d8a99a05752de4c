"""Editing the clients file: whole or not at all, with the security officer's comments kept where they stand."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import yaml

from cds_service.state.keys import sync_folder
from cds_service.trust.clients import Client, ClientsError, read_clients
from cds_service.trust.keys import check_sources

HEADER = "# Who may call. Written by `cds-service clients`; may be edited by hand as well.\n"
MODE = 0o640


def add(path: Path, client: Client) -> None:
    """Register a client. Raises ClientsError for a name or issuer that somebody else has."""
    check_sources([client])
    with _edited(path) as (text, write):
        known = _read(path, text)
        for other in known:
            if other.name == client.name:
                raise ClientsError(f"{client.name} is registered already; remove it first")
            if client.issuer and other.issuer == client.issuer:
                raise ClientsError(f"{other.name} has this issuer already; an issuer names one client")
        write(_agreed(_appended(text, client), (*known, client)))


def change(path: Path, name: str, changed: Callable[[Client], Client]) -> Client:
    """Write a client's entry anew, at the end. Raises ClientsError when there is none of this name."""
    with _edited(path) as (text, write):
        known = _read(path, text)
        position = _position(known, name)
        client = changed(known[position])
        check_sources([client])
        left = (*known[:position], *known[position + 1 :])
        write(_agreed(_appended(_without(text, position), client), (*left, client)))
        return client


def remove(path: Path, name: str) -> Client:
    """Take a client out. Raises ClientsError when there is none of this name."""
    with _edited(path) as (text, write):
        known = _read(path, text)
        position = _position(known, name)
        left = (*known[:position], *known[position + 1 :])
        write(_agreed(_without(text, position), left))
        return known[position]


def _position(known: tuple[Client, ...], name: str) -> int:
    position = next((n for n, client in enumerate(known) if client.name == name), None)
    if position is None:
        names = ", ".join(client.name for client in known) or "none"
        raise ClientsError(f"no client {name!r} is registered; registered: {names}")
    return position


def _appended(text: str, client: Client) -> str:
    entry = {k: v for k, v in msgspec.to_builtins(client).items() if v or k == "fhir"}
    block = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    return (text if not text or text.endswith("\n") else text + "\n") + block


def _read(path: Path, text: str) -> tuple[Client, ...]:
    try:
        return read_clients(text)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ClientsError(f"{path}: {error}") from None


def _without(text: str, position: int) -> str:
    """The text without the lines of one item of the list."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.SequenceNode) or node.flow_style:
        return ""
    lines = text.splitlines(keepends=True)
    starts = [item.start_mark.line for item in node.value] + [len(lines)]
    return "".join(lines[: starts[position]] + lines[starts[position + 1] :])


def _agreed(text: str, clients: tuple[Client, ...]) -> str:
    """The edited text if it reads as these clients, else (a list in one line, an odd indent) a list written anew."""
    try:
        if read_clients(text) == clients:
            return text
    except (yaml.YAMLError, msgspec.ValidationError):
        pass
    entries = [{k: v for k, v in msgspec.to_builtins(c).items() if v or k == "fhir"} for c in clients]
    return HEADER + (yaml.safe_dump(entries, sort_keys=False, allow_unicode=True) if entries else "")


@contextmanager
def _edited(path: Path) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The text of the file, and how to replace it; one editor at a time. A reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        yield text, lambda new: _replace(path, new)


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(
        beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, path.stat().st_mode & 0o777 if path.exists() else MODE
    )
    try:
        os.write(handle, text.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    beside.replace(path)
    sync_folder(path.parent)
