"""A real PostgreSQL on a free loopback port, in a folder of its own; it dies with this process, even when killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

PR_SET_PDEATHSIG = 1
START_S = 30.0
OWNER = "ordersight"
"""No superuser: row-level security would not bind one."""
_libc = ctypes.CDLL(None)


def binaries() -> Path:
    """Debian's newest PostgreSQL, or what is on the PATH."""
    found = {int(p.parent.name): p for p in Path("/usr/lib/postgresql").glob("*/bin") if p.parent.name.isdigit()}
    if found:
        return found[max(found)]
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    return Path(on_path).parent


def _as_postgres() -> Callable[[], None]:
    """Run in the child before exec. PostgreSQL refuses to run as root, so root's children become user postgres."""
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else None

    def become() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    return become


def as_superuser(url: str) -> str:
    """What psycopg takes to reach this database as the cluster's administrator, whom no policy binds."""
    return url.replace("+psycopg", "").replace(f"//{OWNER}@", "//postgres@")


class Cluster:
    """`stop` and `kill` are what an administrator and a power cut do; `start` starts the same data again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings` of postgresql.conf beside or instead of the tests' own."""
        self.folder = folder
        self._settings = settings
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._free: list[str] = []
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        subprocess.run(
            [
                *(self._bin / "initdb", "-A", "trust", "-U", "postgres", "--no-sync"),
                *("--locale=C.UTF-8", "-E", "UTF8", "-D", self.data),
            ],
            preexec_fn=_as_postgres(),
            check=True,
            capture_output=True,
            cwd=folder,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            # The machine itself does not fail in these tests; what PostgreSQL has written, the kernel keeps.
            "fsync": "off",
            "shared_buffers": "16MB",
            **self._settings,
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self.data, "-p", str(self.port), *options],
            preexec_fn=_as_postgres(),
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            cwd=self.folder,
        )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with contextlib.suppress(psycopg.OperationalError):
                with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
                    if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone():
                        conn.execute(f"CREATE ROLE {OWNER} LOGIN")
                return
            time.sleep(0.05)
        pytest.fail(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self) -> None:
        """Fast shutdown: connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Immediate shutdown: nothing is written any more, the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def _end(self, sign: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(sign)
            self._process.wait(timeout=START_S)

    def dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        if self._free:
            return self._free.pop()
        self._databases += 1
        name = f"state_{self._databases}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
        return f"postgresql+psycopg://{OWNER}@127.0.0.1:{self.port}/{name}"

    def take_back(self, url: str) -> None:
        """Empty a database for the next test: quicker than a new one, whose files take long to remove."""
        with psycopg.connect(as_superuser(url), autocommit=True) as conn:
            conn.execute("DROP SCHEMA public CASCADE")
            conn.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        self._free.append(url)


@contextlib.contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ordersight-postgres-"))
    try:
        made = Cluster(folder, **settings)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
