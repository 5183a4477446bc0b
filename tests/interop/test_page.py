"""docs/evaluate-your-model.md: its commands parse and its Python runs, with the tiny model instead of those of hubs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.core.view import View
from m2raap.interop.mteb import Encoder
from m2raap.models.builtin import TINY
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import load_model
from m2raap.video.clip import KeyframeConfig
from tests.interop import tiny_qwen3_vl
from tests.interop.conftest import FRAMES, m2raap_here
from tests.interop.test_mteb import Images, task_of
from tests.pages import blocks, commands, parse

PAGE = "docs/evaluate-your-model.md"
STAND_INS = {
    '"ViT-B-32", pretrained="laion2b_s34b_b79k"': f'"local-dir:{TINY}"',
    '"num_videos": 8': '"num_videos": 6',
    '"Qwen/Qwen3-VL-Embedding-2B"': '"Q"',
    '"ViT-B-32"': f'"local-dir:{TINY}"',
    'name="me/my-model"': f'name="me/my-model", keyframes=KeyframeConfig(k={FRAMES})',
    "mteb.evaluate(encoder, task)": "mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)",
}


@pytest.fixture
def folder(chain: Path, small_world: Path, tmp_path: Path, monkeypatch) -> Path:
    """The working directory of a reader of the page: K, the training corpus C and the folder of a model."""
    (tmp_path / "K").symlink_to(chain / "keyframes")
    (tmp_path / "C").symlink_to(small_world / "train")
    load_model(BackboneConfig()).save(tmp_path / "R" / "adapt" / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(number: int) -> dict[str, Any]:
    code = blocks(PAGE, "python")[number]
    for name, other in STAND_INS.items():
        code = code.replace(name, other)
    names: dict[str, Any] = {"KeyframeConfig": KeyframeConfig}
    exec(compile(code, PAGE, "exec", dont_inherit=True), names)
    return names


def metrics(tree: dict[str, Any]) -> list[Any]:
    return [(row["lang"], row["direction"], row["metrics"], row["intervals"]) for row in tree["rows"]]


def test_python_of_the_page_runs(folder: Path, results: dict[str, Any], bench: View, capsys, monkeypatch) -> None:
    assert metrics(run(0)["results"]) == metrics(results), "open_clip's own model, its transform, its tokenizer"
    assert "zh v2t R@1" in capsys.readouterr().out
    found = run(1)["results"]
    assert metrics(found) == metrics(results) and found["rescored"].keys() == {"dual_softmax", "qb_norm"}
    assert (found["protocol"]["name"], found["protocol"]["declared"]) == ("kitchen", True)
    assert {row["direction"] for row in run(2)["rows"]} == {"t2v", "v2t"}
    for words in commands(PAGE):
        assert parse(words)
        if words[1] == "compare":
            m2raap_here(*words[1:])
    mteb = pytest.importorskip("mteb")
    monkeypatch.setattr(mteb, "get_task", lambda name: task_of(bench, "en", "t2v"))
    (expected,) = [r for r in results["rows"] if (r["lang"], r["direction"], r["slice"]) == ("en", "t2v", "all")]
    assert run(3)["scores"]["recall_at_1"] == pytest.approx(expected["metrics"]["R@1"] / 100, abs=1e-5)
    monkeypatch.setattr(mteb, "get_model", lambda name: Images(Encoder("R/adapt")))
    assert metrics(run(4)["results"]) == metrics(results)
    (folder / "Q").mkdir()
    tiny_qwen3_vl.write(folder / "Q")
    ran = run(5)
    assert {row["direction"] for row in ran["results"]["rows"]} == {"t2v", "v2t"}
    assert next(ran["model"].model.parameters()).dtype is torch.bfloat16
