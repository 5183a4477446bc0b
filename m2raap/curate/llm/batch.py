"""OpenAI Batch JSONL: writes the same requests as a file for providers and `vllm run-batch`, and reads their answers into the
cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.client import InvalidCompletion, completion_of
from m2raap.curate.llm.schema import Request, well_formed

URL = "/v1/chat/completions"
_MAX_LINE = 4 * 1024 * 1024  # most bytes of a line; an answer of 32k tokens has far fewer


class Imported(NamedTuple):
    """What a file of answers held."""

    answers: int  # number of answers that are in the cache now
    failed: int  # number of requests that failed at the provider; they can be sent again
    unknown: int  # number of answers to requests that were not exported from this cache


def _refuse_other_file(path: Path) -> None:
    """Raises M2raapError where a file of something else is at `path`, or a device or pipe: it would be replaced."""
    if path.is_file() and not path.stat().st_size:
        return
    if path.exists() and not (path.is_file() and path.open("rb").read(12) == b'{"custom_id"'):
        raise M2raapError(f"{path}: exists and holds no requests; give another file for --requests")


def export_requests(requests: Sequence[Request], path: Path, cache: Cache) -> int:
    """Writes one line for each request, sorted by key, and marks them in the cache as exported; returns their number."""
    _refuse_other_file(path)
    unique = {request.key: request for request in requests}
    lines = [
        json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": unique[key].body}, ensure_ascii=False)
        for key in sorted(unique)
    ]
    cache.mark_exported(unique[key] for key in sorted(unique))
    write_atomic(path, "".join(line + "\n" for line in lines).encode())
    return len(lines)


def import_answers(path: Path, cache: Cache) -> Imported:
    """Fills the cache from a file of answers. Raises M2raapError naming file and line if a line is no Batch answer."""
    answers = failed = unknown = 0
    for number, line in _lines(path):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
            key, response, error = row["custom_id"], row.get("response"), row.get("error")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise M2raapError(
                f"{where}: expected an answer of a Batch file (JSON with custom_id and response)"
            ) from None
        if not isinstance(key, str):
            raise M2raapError(f"{where}: expected a text as custom_id, found {type(key).__name__}")
        if error or not isinstance(response, dict) or response.get("status_code") != 200:
            failed += 1
            continue
        try:
            completion = completion_of(response.get("body") or {}, "batch")
        except InvalidCompletion as fault:
            raise M2raapError(f"{where}: {fault}") from None
        if cache.put_exported(well_formed(key), completion):
            answers += 1
        else:
            unknown += 1
    return Imported(answers, failed, unknown)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open(path, "rb") as source:
            number = 0
            while line := source.readline(_MAX_LINE + 1):
                number += 1
                if len(line) > _MAX_LINE:
                    raise M2raapError(
                        f"{path} line {number}: longer than {_MAX_LINE:,} bytes; is this a file of answers?"
                    )
                if line.strip():
                    yield number, line
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror or error})") from None
