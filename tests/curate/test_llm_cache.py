"""The file of answers: shared by processes, found again after anything, cleaned by `forget`; and how data is written."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.curate.llm.batch import import_answers
from m2raap.curate.llm.budget import Budget, BudgetConfig
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.prompts import PROMPTS, as_data, load_prompt
from m2raap.curate.llm.schema import Completion, Request, is_endless


def request(number: int) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 10}
    return Request(body, "prompt", ("en",), f"clip{number}")


def put_many(path: Path, start: int) -> None:
    cache = Cache(path)
    budget = Budget(cache, "s", BudgetConfig(max_requests=60))
    for number in range(start, start + 40):
        if budget.reserve(request(number)):
            cache.put(request(number), Completion(f"answer {number}", tokens_in=1, tokens_out=1))
            budget.settle(request(number), Completion("", tokens_in=1, tokens_out=1))


def test_processes_share_answers_and_one_budget(tmp_path: Path):
    path = tmp_path / "deep" / "llm.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=put_many, args=(path, start)) for start in (0, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    cache = Cache(path)
    found = [cache.get(request(number)) for number in range(80)]
    assert sum(one is not None for one in found) == 60 and cache.spent("s") == (60, 120, 0.0)
    assert all(one is None or one.content == f"answer {number}" for number, one in enumerate(found))


def test_answers_of_a_batch_are_stored_together(tmp_path: Path):
    cache = Cache(tmp_path / "llm.sqlite")
    cache.put_all([(request(number), Completion(f"answer {number}")) for number in range(8)])
    with pytest.raises(M2raapError, match="llm.sqlite"):
        cache.put_all([(request(8), Completion("answer 8")), (request(9), Completion(None))])  # type: ignore[arg-type]
    stored = [Cache(tmp_path / "llm.sqlite").get(request(number)) for number in range(10)]
    assert stored == [Completion(f"answer {number}") for number in range(8)] + [None, None]


def store_and_die(path: Path) -> None:
    Cache(path).put(request(1), Completion("paid for"))
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_answer_outlives_a_process_that_is_killed(tmp_path: Path):
    path = tmp_path / "llm.sqlite"
    worker = multiprocessing.get_context("spawn").Process(target=store_and_die, args=(path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL and Cache(path).get(request(1)) == Completion("paid for")


def test_values_of_another_type_are_refused(tmp_path: Path):
    """Sqlite stores bytes in a column of texts, too, and the file may come from somebody else."""
    cache = Cache(tmp_path / "llm.sqlite")
    cache.put(request(1), Completion("answer"))
    cache.spend("s", 1, 1, 1.0)
    cache.add_to_tally("s", 1, 1)
    cache._db.execute("UPDATE answers SET content = x'ff'")
    cache._db.execute("UPDATE spent SET cost = 'much'")
    cache._db.execute("UPDATE tally SET asked = 'often'")
    for read in (
        lambda: cache.get(request(1)),
        lambda: cache.spent("s"),
        lambda: cache.spend("s", 1, 1, 1.0),
        lambda: cache.tally("s"),
    ):
        with pytest.raises(M2raapError, match="llm.sqlite"):
            read()


def test_forgetting_a_clip_takes_its_answers_and_leaves_no_bytes(tmp_path: Path):
    path = tmp_path / "llm.sqlite"
    cache = Cache(path)
    for number in (1, 2):
        cache.put(request(number), Completion(f"answer of {number}"))
    cache.mark_exported([request(1)])
    assert cache.delete_answers_of({"clip1"}.__contains__) == 2
    assert cache.get(request(1)) is None and cache.get(request(2)) == Completion("answer of 2")
    assert b"answer of 1" not in path.read_bytes() and b"clip1" not in path.read_bytes()


def test_a_file_that_is_no_cache_is_one_sentence(tmp_path: Path):
    path = tmp_path / "llm.sqlite"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(M2raapError, match="llm.sqlite"):
        Cache(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"custom_id": 3, "response": {}}', "line 2: .*custom_id"),
        ('["custom_id"]', "line 2: .*Batch file"),
        (
            '{"custom_id": "a", "response": {"status_code": 200, "body": {"choices": []}}}',
            "line 2: the answer is no chat",
        ),
        ("x" * (4 * 1024 * 1024 + 1), "line 2: longer than 4,194,304 bytes"),
    ],
)
def test_strange_batch_files_are_refused_by_line(tmp_path: Path, line: str, message: str):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(M2raapError, match=message):
        import_answers(path, Cache(tmp_path / "llm.sqlite"))


@given(st.text(max_size=200))
def test_data_reads_back_and_shows_no_tag_and_no_break(text: str):
    from m2raap.curate.language import visible

    written = as_data({"caption": {"text": text}, "list": ["a", text]})
    assert written.startswith("<data>\n") and written.endswith("\n</data>")
    line = written.removeprefix("<data>\n").removesuffix("\n</data>")
    assert json.loads(line) == {"caption": {"text": visible(text)}, "list": ["a", visible(text)]}
    assert len(line.splitlines()) == 1 and not set("<>|`&#") & set(line) and line.count("[") == 1


def test_prompts_are_named_by_their_bytes():
    found = {name: load_prompt(name) for name in PROMPTS}
    assert len({prompt.digest for prompt in found.values()}) == len(PROMPTS)
    assert all("data" in prompt.text and "JSON" in prompt.text for prompt in found.values())


def test_loops_are_told_from_long_captions():
    assert is_endless("a" + " " * 64) and is_endless("red circle " * 40) and is_endless('{"en": ' + "\n" * 90 + "\\")
    assert not is_endless("A man walks, " * 3 + "then he sits. " * 5)
    assert not is_endless("x" * 100), "short"
    assert not is_endless(" ".join(f"word{i}" for i in range(400)))


def test_a_file_of_something_else_is_not_replaced_by_requests(tmp_path: Path):
    from m2raap.curate.llm.batch import export_requests

    cache, request = Cache(tmp_path / "llm.sqlite"), Request({"model": "m", "messages": []}, "prompt", ("en",), "c")
    out = tmp_path / "requests.jsonl"
    for _ in range(2):
        assert export_requests([request], out, cache) == 1  # one's own file may be written again
    (tmp_path / "manifest.json").write_text('{"kind": "corpus"}')
    for path in (tmp_path / "manifest.json", tmp_path, Path("/dev/null")):
        with pytest.raises(M2raapError, match=f"^{path}: "):
            export_requests([request], path, cache)
    assert (tmp_path / "manifest.json").read_text() == '{"kind": "corpus"}'
