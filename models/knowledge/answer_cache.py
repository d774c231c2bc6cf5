"""Answers kept on disk by model and prompt digest, so that nobody pays twice for one question."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from models.errors import KnowledgeError

FILE: Final = "answers.sqlite"


def default_cache() -> Path:
    """The user's cache folder of this project; it is kept when runs and knowledge folders are deleted."""
    try:
        import platformdirs
    except ImportError as error:
        raise KnowledgeError(
            "package 'platformdirs' is not installed; pip install 'afterglow[llm]', or name a folder with --cache"
        ) from error
    return platformdirs.user_cache_path("afterglow") / "answers"


class AnswerCache:
    """A table of response bodies in one SQLite file of `folder`; several processes may use it at once.

    An answer is on disk when `put` returns, as far as the death of this process is concerned.
    """

    def __init__(self, folder: Path) -> None:
        """Raises KnowledgeError if the folder cannot be written or holds something else."""
        path = self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (model TEXT, digest TEXT, body BLOB, PRIMARY KEY (model, digest)) "
                "WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise KnowledgeError(f"{path}: cannot be used as a cache of answers ({error})") from error

    def get(self, model: str, digest: str) -> dict[str, Any] | None:
        """The body that was kept, or None."""
        row = self._database.execute(
            "SELECT body FROM answers WHERE model = ? AND digest = ?", (model, digest)
        ).fetchone()
        return None if row is None else dict(json.loads(zlib.decompress(row[0])))

    def put(self, model: str, digest: str, body: Mapping[str, Any]) -> None:
        """Keeps `body`; replaces what was kept for the same question."""
        packed = zlib.compress(json.dumps(body, ensure_ascii=False).encode())
        try:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (model, digest, packed))
        except sqlite3.Error as error:
            raise KnowledgeError(f"{self._path}: an answer could not be kept ({error})") from error

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
