"""A study's folder: where its database, its files and its bundle are."""

from dataclasses import dataclass
from pathlib import Path

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.storage.database import sqlite_url
from promptgraft.spaces import InvalidInputError, masked_url


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything about one study is.

    Attributes:
        path: Local folder, by default `runs/<study name>`: the database and the bundle.
        url: Where the files of trials, stages and checkpoints are, if not in `path`: any URL that fsspec knows.
        shared: Folder of the database and of the dashboard's artifacts, if not `path`; see `own_folder`.
    """

    path: Path
    url: str | None = None
    shared: Path | None = None

    @classmethod
    def of(cls, name: str, workdir: str | None) -> "RunFolder":
        """Return the place of a study.

        Args:
            name: The study's name.
            workdir: A folder, or a URL for the files; `runs/<name>` if None.
        """
        if workdir is not None and "://" in workdir:
            return cls(Path("runs") / name, workdir)
        return cls(Path(workdir) if workdir else Path("runs") / name)

    @property
    def database(self) -> Path:
        """The study's SQLite file, unless another storage is named."""
        return (self.shared or self.path) / "study.db"

    @property
    def dashboard(self) -> Path:
        """Artifacts of Optuna Dashboard, which serves all studies of a database; each has a random name."""
        return (self.shared or self.path) / "dashboard"

    @property
    def bundle(self) -> Path:
        """The exported winner."""
        return self.path / "bundle"

    @property
    def files_url(self) -> str:
        """Where workers write; absolute."""
        return self.url or str(self.path.resolve())

    def files(self) -> FileStore:
        """Return the files of trials, stages and checkpoints."""
        return FileStore(self.files_url)

    def storage_url(self) -> str:
        """URL of the SQLite file.

        Raises:
            InvalidInputError: If the files are elsewhere, where SQLite can't be.
        """
        if self.url is not None:
            raise InvalidInputError(
                f"the files are at {masked_url(self.url)}, where a database can't be; name one with --storage "
                "(postgresql://... if several machines share the study)"
            )
        return sqlite_url(self.database)
