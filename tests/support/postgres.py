"""A real PostgreSQL server for the tests that want one."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy


def _program(name: str) -> str:
    """Find a program of the server: Debian keeps them off the path."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    assert found, f"{name} is missing: run make test-postgres, which installs PostgreSQL"
    return found


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server: its URL without a database, and the command that controls it."""

    url: str
    control: list[str]
    start: list[str]
    folder: Path

    @contextmanager
    def down(self) -> Iterator[None]:
        """Take it down as a crash does, and start it again at the end."""
        subprocess.run([*self.control, "-m", "immediate", "stop"], check=True, cwd=self.folder, capture_output=True)
        try:
            yield
        finally:
            subprocess.run([*self.control, *self.start], check=True, cwd=self.folder, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Start a server of our own on a free loopback port, with a password."""
    # Beside pytest's folders, which every session closes to other users, such as the server's.
    with tempfile.TemporaryDirectory(prefix="promptgraft-postgres-") as folder:
        yield from _running_server(Path(folder))


def _running_server(folder: Path) -> Iterator[Server]:
    password = secrets.token_hex(8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The server refuses to be root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    secret = folder / "password"
    secret.write_text(password)
    if user:
        shutil.chown(secret, "postgres")
    data = folder / "data"
    command = [_program("initdb"), "-D", str(data), "-U", "graft", "-A", "scram-sha-256", f"--pwfile={secret}"]
    subprocess.run([*user, *command], check=True, capture_output=True, cwd=folder)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [*user, _program("pg_ctl"), "-D", str(data), "-w"]
    start = ["-o", options, "-l", str(folder / "log"), "start"]
    subprocess.run([*control, *start], check=True, cwd=folder)
    yield Server(f"postgresql://graft:{password}@127.0.0.1:{port}", control, start, folder)
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder)


@pytest.fixture
def postgres_url(postgres_server: Server) -> Callable[[Path], str]:
    """Return the URL of a database of its own for each folder."""

    def url_of(folder: Path) -> str:
        name = "d" + sha256(str(folder).encode()).hexdigest()[:12]
        engine = sqlalchemy.create_engine(
            f"{postgres_server.url}/postgres".replace("postgresql:", "postgresql+psycopg:"),
            isolation_level="AUTOCOMMIT",
        )
        with engine.connect() as connection:
            known = sqlalchemy.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if connection.execute(known, {"name": name}).scalar() is None:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return f"{postgres_server.url}/{name}"

    return url_of
