"""A run that says it used CLIP ViT-B/32 on 1k-A (its embeddings are random numbers), and runs with other models or benchmarks."""

from pathlib import Path
from typing import Any

import pytest

from m2raap.core.errors import M2raapError, ThresholdNotMet
from m2raap.core.files import read_json, write_json
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.verify import anchors, verify, verify_lines
from tests.conftest import sign_again
from tests.stages.embedded import write_run

REAL = {"name": "r", "stages": [], "backbone": {"model": "ViT-B-32", "pretrained": "openai"}}


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "run"
    write_run(out, {"r": {"num": 1000, "noise": 2.2, "langs": ("en",), "protocol": "msrvtt-1ka-jsfusion"}}, "msrvtt")
    return out


def opened(run: Path, **recipe: Any) -> RunFolder:
    tree = read_json(run / "run.json")
    return RunFolder(run, tree | {"recipe": REAL | recipe})


def test_a_run_is_compared_with_what_was_published(real: Path):
    found = verify(opened(real))
    rows = {(row["direction"], row["metric"]): row for row in found["compared"]}
    assert {key: row["published"] for key, row in rows.items()} == {
        ("t2v", "R@1"): 31.2, ("t2v", "R@5"): 53.7, ("v2t", "R@1"): 27.2,
    }  # fmt: skip
    results = read_json(real / "r" / "bench-msrvtt" / "evaluate" / "results.json")
    official = {row["direction"]: row for row in results["rows"] if row["slice"] == "all"}
    for (direction, metric), row in rows.items():
        assert row["diff"] == pytest.approx(official[direction]["metrics"][metric] - row["published"])
        lo, hi = official[direction]["intervals"][metric]
        assert row["inside"] == (lo <= row["published"] <= hi)
    said = "\n".join(verify_lines(found))
    assert "published 31.2" in said and "Portillo-Quintero" in said and "keyframe-8" in said


def test_a_difference_that_is_too_large_misses_the_threshold(real: Path):
    with pytest.raises(ThresholdNotMet, match="--within .*0.001 points"):
        verify(opened(real), within=0.001)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"backbone": {"model": "ViT-B-32", "random_init": True}}, "its weights are random"),
        ({"backbone": {"model": "builtin:tiny"}}, "builtin:tiny"),
        (
            {"backbone": {"model": "ViT-L-14", "pretrained": "openai"}},
            "ViT-L-14; .*ViT-B-32",
        ),
        (
            {"backbone": {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}},
            "'laion2b_s34b_b79k', .*'openai'",
        ),
        ({"backbone": {"model": "ViT-B-32", "pretrained": "/w/clip.pt"}}, "give --weights openai"),
        ({"stages": ["keyframes", "adapt"]}, "it was trained"),
    ],
)
def test_what_is_not_alike_is_not_compared(real: Path, recipe: dict[str, Any], sentence: str):
    with pytest.raises(M2raapError, match=f"r on msrvtt: .*{sentence}"):
        verify(opened(real, **recipe))


def test_weights_from_a_file_are_taken_at_the_users_word(real: Path):
    backbone = {"model": "ViT-B-32", "pretrained": "/w/clip.pt"}
    assert verify(opened(real, backbone=backbone), weights="openai")["compared"]


def test_another_benchmark_and_another_count_are_not_compared(tmp_path: Path):
    write_run(tmp_path / "run", {"r": {"num": 40, "langs": ("en",)}})
    with pytest.raises(M2raapError, match="its benchmark is custom, .*(msrvtt-1ka-jsfusion|msvd)"):
        verify(opened(tmp_path / "run"))
    folder = tmp_path / "run" / "r" / "bench-clips" / "evaluate" / "results.json"
    tree = read_json(folder)
    write_json(folder, tree | {"protocol": tree["protocol"] | {"name": "msrvtt-1ka-jsfusion"}})
    sign_again(folder.parent)
    with pytest.raises(M2raapError, match="it has 40 queries, .*1,000"):
        verify(opened(tmp_path / "run"))


def test_anchors_are_cited():
    assert all(len(anchor.source) > 10 and anchor.queries >= 1000 for anchor in anchors())
    assert {(a.benchmark, a.t2v["R@1"], a.v2t.get("R@1")) for a in anchors()} == {
        ("msrvtt-1ka-jsfusion", 31.2, 27.2), ("msvd", 37.0, None), ("msrvtt-1ka-jsfusion", 31.7, 28.2),
    }  # fmt: skip
