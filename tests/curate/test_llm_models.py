"""Models in this process and behind a real OpenAI-compatible server (transformers' own), tiny and made here."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.curate import image_text
from m2raap.curate.captioners import CAPTIONERS, CaptionerConfig, ClipFrames, Tools
from m2raap.curate.llm.cache import Cache
from m2raap.curate.rewriters import REWRITERS, ClipTexts, RewriterConfig
from tests.curate.tiny_models import ANSWER, chat_model, image_to_text

pytestmark = pytest.mark.filterwarnings("ignore")
RAW = [{"text_id": "e0", "lang": "en", "text": "a red circle goes to the right"}]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def jpeg(seed: int) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def captioner(model: Path, cache: Path, **more: Any) -> Any:
    cfg = CaptionerConfig.model_validate(
        {"name": "transformers", "transformers": {"model": str(model), "max_tokens": 8} | more}
    )

    def nothing(_: Any) -> Any:
        raise AssertionError("no backbone is needed")

    return CAPTIONERS["transformers"](cfg, Tools(nothing, nothing, lambda: Cache(cache), nothing))


@pytest.mark.parametrize("family", ["blip", "blip-2", "florence2"])
def test_families_describe_pictures_once_and_whoever_stands_beside(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = image_to_text(family, tmp_path / "m")
    clips = [ClipFrames("a", [jpeg(0), jpeg(1)]), ClipFrames("b", []), ClipFrames("c", [jpeg(2), jpeg(0), jpeg(3)])]
    found = captioner(model, tmp_path / "1.sqlite", batch_size=4).caption_many(clips, ["en", "zh"])
    assert [[(row["frame_index"], row["lang"]) for row in rows] for rows in found] == [
        [(0, "en"), (1, "en")],
        [],
        [(0, "en"), (1, "en"), (2, "en")],
    ]
    assert {row["outcome"] for rows in found for row in rows} <= {"ok", "truncated", "refused"}
    assert all((row["text"] is not None) == (row["outcome"] == "ok") for rows in found for row in rows)
    alone = captioner(model, tmp_path / "2.sqlite", batch_size=4)
    assert [row for clip in clips for row in alone.caption_many([clip], ["en"])] == found
    monkeypatch.setattr(
        image_text, "load_captioner", lambda settings: pytest.fail("an answered picture was described again")
    )
    assert captioner(model, tmp_path / "1.sqlite", batch_size=4).caption_many(clips, ["en"]) == found
    assert str(model.name) in alone.producer


def test_a_whole_caption_is_ok_and_a_cut_one_truncated(tmp_path: Path):
    model = image_to_text("blip", tmp_path / "m")
    clips = [ClipFrames("a", [jpeg(0)])]
    whole, cut = (captioner(model, tmp_path / "c", max_tokens=n).caption_many(clips, ["en"])[0][0] for n in (12, 5))
    assert (whole["outcome"], whole["text"], whole["sent_to"]) == ("ok", "a dog runs in the park", "")
    assert (cut["outcome"], cut["text"]) == ("truncated", None) and cut["note"].startswith("cut after")


def test_captioners_refuse_what_they_are_not_made_for(tmp_path: Path):
    chat = chat_model(tmp_path / "chat")
    with pytest.raises(M2raapError, match="'llama'.*blip, blip-2"):
        captioner(chat, tmp_path / "1.sqlite").caption_many([ClipFrames("a", [jpeg(0)])], ["en"])
    with pytest.raises(M2raapError, match="'en'.* zh"):
        captioner(chat, tmp_path / "1.sqlite").caption_many([ClipFrames("a", [jpeg(0)])], ["zh"])
    with pytest.raises(M2raapError, match="cannot be loaded"):
        captioner(tmp_path / "nowhere", tmp_path / "1.sqlite").caption_many([ClipFrames("a", [jpeg(0)])], ["en"])


def test_code_that_comes_with_a_model_is_never_run_and_no_pickle_read(tmp_path: Path):
    import torch

    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "code.Evil"}}')
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(M2raapError, match="cannot be loaded"):
        captioner(folder, tmp_path / "1.sqlite").caption_many([ClipFrames("a", [jpeg(0)])], ["en"])
    assert not (tmp_path / "ran").exists()
    model = image_to_text("blip", tmp_path / "m")
    (model / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, model / "pytorch_model.bin")
    with pytest.raises(M2raapError, match="cannot be loaded"):
        captioner(model, tmp_path / "1.sqlite").caption_many([ClipFrames("a", [jpeg(0)])], ["en"])


def local(model: Path, tmp_path: Path) -> Any:
    cfg = RewriterConfig.model_validate({"name": "local", "local": {"model": str(model), "max_tokens": 12}})
    return REWRITERS["local"](cfg, lambda: Cache(tmp_path / "llm.sqlite"))


def test_a_local_model_rewrites_and_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from m2raap.curate.llm.local import LocalBackend

    clips = [ClipTexts("c", RAW, []), ClipTexts("d", [], [{"lang": "en", "text": "a red circle"}])]
    model = chat_model(tmp_path / "chat")
    found = local(model, tmp_path).rewrite_many(clips, ["en", "zh"])
    assert [[row["text"] for row in one.new] for one in found] == [list(ANSWER.values())] * 2
    assert [one.sent_to for one in found] == [{}, {}], "nothing left this process"
    assert "chat@" in found[0].new[0]["producer"]
    monkeypatch.setattr(LocalBackend, "complete", lambda *_: pytest.fail("asked again"))
    assert local(model, tmp_path).rewrite_many(clips, ["en", "zh"]) == found


@pytest.mark.parametrize(
    ("answer", "ends", "outcome"),
    [("no JSON", True, "error"), ("I'm sorry, I cannot.", True, "refused"), ('{"en":', False, "truncated")],
)
def test_a_local_model_that_answers_badly(tmp_path: Path, answer: str, ends: bool, outcome: str):
    found = local(chat_model(tmp_path / "chat", answer, ends), tmp_path).rewrite_many([ClipTexts("c", RAW, [])], ["en"])
    assert found[0].new == [] and [row["reason"] for row in found[0].kept] == [outcome]


# -- a real server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base_url, model) of `transformers serve`, a process of its own."""
    missing = [
        name for name in ("fastapi", "uvicorn", "openai", "accelerate") if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)} (pip install 'm2raap[dev]')")
    model = str(chat_model(tmp_path_factory.mktemp("served") / "chat"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        model,
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("log") / "server.log"
    with open(log, "wb") as sink:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], env=environment, stdout=sink, stderr=sink)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
                    pytest.fail(f"the server has ended: {log.read_text()[-2000:]}")
        else:
            pytest.fail(f"the server did not come up: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()


def test_a_real_server_rewrites_and_translates(real_server: tuple[str, str], tmp_path: Path):
    url, model = real_server
    endpoint = {"base_url": url, "model": model, "max_tokens": 16, "timeout_s": 60}
    cfg = RewriterConfig.model_validate({"name": "endpoint", "endpoint": endpoint})
    rewriter = REWRITERS["endpoint"](cfg, lambda: Cache(tmp_path / "llm.sqlite"))
    found = rewriter.rewrite_many(
        [ClipTexts(f"c{i}", [RAW[0] | {"text": f"a red circle {i}"}], []) for i in range(6)], ["en", "zh"]
    )
    assert [[(row["lang"], row["origin"], row["text"]) for row in one.new] for one in found] == [
        [("en", "rewrite", ANSWER["en"]), ("zh", "translation", ANSWER["zh"])]
    ] * 6
    requests, tokens, _ = Cache(tmp_path / "llm.sqlite").spent("rewrite")
    assert requests == 6 and 6 < tokens < 6 * 1000, "the server says what it used"


def test_a_real_server_says_what_it_does_not_know(real_server: tuple[str, str], tmp_path: Path):
    endpoint = {"base_url": real_server[0], "model": "another", "timeout_s": 60, "attempts": 1, "allow_errors": 1.0}
    cfg = RewriterConfig.model_validate({"name": "endpoint", "endpoint": endpoint})
    found = REWRITERS["endpoint"](cfg, lambda: Cache(tmp_path / "llm.sqlite")).rewrite_many(
        [ClipTexts("c", RAW, [])], ["en"]
    )
    assert [row["reason"] for row in found[0].kept] == ["error"] and "another" in found[0].kept[0]["detail"]
