"""Answers of models in sqlite, by the contents of their requests: no request is answered twice, also after a crash.

The key covers model, prompt, payload and parameters, so stages, arms, workers and Batch files share one file. It also holds
the clip for which an answer was first requested (so that it can be forgotten), the budget that was spent, and the requests
that were exported.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.lock import refuse_link
from m2raap.curate.llm.schema import Completion, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, content TEXT NOT NULL, finish TEXT NOT NULL, refusal TEXT,
  tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, server TEXT NOT NULL, clip_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exported (key TEXT PRIMARY KEY, clip_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (scope TEXT PRIMARY KEY, requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
  cost REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tally (scope TEXT PRIMARY KEY, asked INTEGER NOT NULL, cached INTEGER NOT NULL);
"""
_SPENT = "SELECT requests, tokens, cost FROM spent WHERE scope = ?"
FILE = "llm.sqlite"
_BESIDE = ("-wal", "-shm", "-journal")  # suffixes of sqlite's files beside the database


class Cache:
    """The file of answers, for many processes and threads.

    What was written when a call returns survives the end of the process, however it ends, and all other processes see it. A
    power cut keeps the file whole, and may cost the writes since sqlite last moved its log into the file, some 4 MB of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        for name in (path.parent, path, *(path.with_name(path.name + end) for end in _BESIDE)):
            refuse_link(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # The log is forced to the disk when it is moved into the file, and not at every write: thousands of writes a second.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> M2raapError:
        if "full" in str(error):
            return M2raapError(
                f"{self.path}: the disk is full; free some space and run the same command again: it resumes"
            )
        return M2raapError(
            f"{self.path}: the cache of answers cannot be used ({error}); delete it to request all answers again"
        )

    @contextmanager
    def _write(self):
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._fault(error) from None

    def _read(self, sql: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise self._fault(error) from None

    def _typed(self, row: tuple, *types: Any) -> Any:
        """The row, whose values sqlite does not keep to the types of the columns. Raises M2raapError where one has another."""
        for value, kind in zip(row, types, strict=True):
            if not isinstance(value, kind):
                raise self._fault(TypeError(f"it holds a {type(value).__name__} in place of another type"))
        return row

    def get(self, request: Request) -> Completion | None:
        """The stored completion of the request, or None."""
        sql = "SELECT content, finish, refusal, tokens_in, tokens_out, server FROM answers WHERE key = ?"
        rows = self._read(sql, (request.key,))
        return Completion(*self._typed(rows[0], str, str, str | None, int, int, str)) if rows else None

    def put(self, request: Request, completion: Completion) -> None:
        """Stores a completion under the key of its request."""
        self.put_all([(request, completion)])

    def put_all(self, answered: Iterable[tuple[Request, Completion]]) -> None:
        """Stores completions under the keys of their requests: all of them, or none."""
        self._put([(request.key, request.clip_id, completion) for request, completion in answered])

    def _put(self, answers: Iterable[tuple[str, str, Completion]]) -> None:
        """Stores completions, each with the key of its request and the clip that it is about."""
        rows = [
            (key, a.content, a.finish, a.refusal, a.tokens_in, a.tokens_out, a.server, clip_id)
            for key, clip_id, a in answers
        ]
        with self._write() as db:
            db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    # -- Batch files -------------------------------------------------------------------------------------------------

    def mark_exported(self, requests: Iterable[Request]) -> None:
        """Stores the keys of requests that were written to a Batch file."""
        with self._write() as db:
            rows = [(request.key, request.clip_id) for request in requests]
            db.executemany("INSERT OR REPLACE INTO exported VALUES (?, ?)", rows)

    def put_exported(self, key: str, completion: Completion) -> bool:
        """Stores the answer to a request that was exported from this cache; False: there is no such request."""
        rows = self._read("SELECT clip_id FROM exported WHERE key = ?", (key,))
        if rows:
            self._put([(key, rows[0][0], completion)])
        return bool(rows)

    # -- money -------------------------------------------------------------------------------------------------------

    def spent(self, scope: str) -> tuple[int, int, float]:
        """(requests, tokens, cost) of all runs so far."""
        rows = self._read(_SPENT, (scope,))
        return self._typed(rows[0], int, int, float) if rows else (0, 0, 0.0)

    def spend(
        self, scope: str, requests: int, tokens: int, cost: float, most: tuple[float, float, float] | None = None
    ) -> bool:
        """Adds to what was spent; with `most`, only if no sum exceeds it. Returns whether it was added."""
        with self._write() as db:
            rows = db.execute(_SPENT, (scope,)).fetchall()
            old = self._typed(rows[0], int, int, float) if rows else (0, 0, 0.0)
            new = (old[0] + requests, old[1] + tokens, old[2] + cost)
            if most is not None and any(value > limit for value, limit in zip(new, most, strict=True)):
                return False
            db.execute("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)", (scope, *new))
        return True

    def tally(self, scope: str) -> tuple[int, int]:
        """(questions that a model was asked, questions whose answers were cached) of all runs so far."""
        rows = self._read("SELECT asked, cached FROM tally WHERE scope = ?", (scope,))
        return self._typed(rows[0], int, int) if rows else (0, 0)

    def add_to_tally(self, scope: str, num_asked: int, num_cached: int) -> None:
        """Adds to both numbers of `tally`."""
        with self._write() as db:
            db.execute("INSERT OR IGNORE INTO tally VALUES (?, 0, 0)", (scope,))
            db.execute(
                "UPDATE tally SET asked = asked + ?, cached = cached + ? WHERE scope = ?",
                (num_asked, num_cached, scope),
            )

    def delete_answers_of(self, is_forgotten: Callable[[str], bool]) -> int:
        """Deletes, and overwrites on disk, the answers that were first requested for clips that `is_forgotten` (of the clip id);
        returns the number of deleted rows. Another clip with an equal request will send it again."""
        tables = ("answers", "exported")
        rows = [(table, *row) for table in tables for row in self._read(f"SELECT key, clip_id FROM {table}")]
        to_delete = [(table, key) for table, key, clip_id in rows if is_forgotten(clip_id)]
        with self._write() as db:
            for table, key in to_delete:
                db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
        if to_delete:
            self._read("VACUUM")
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(to_delete)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()
