from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.errors import M2raapError, UsageError
from m2raap.report.compare import alone, compare, failed_thresholds
from m2raap.report.comparison import as_latex, print_comparison
from m2raap.report.contenders import Contender, open_contender, open_contenders
from tests.conftest import m2raap
from tests.stages.embedded import evaluated, write_run


def difference(found: dict[str, Any], lang: str = "en", direction: str = "t2v", metric: str = "R@1") -> dict[str, Any]:
    (bench,) = found["benches"]
    wanted = (lang, direction, metric)
    (row,) = [row for row in bench["differences"] if (row["lang"], row["direction"], row["metric"]) == wanted]
    return row


def both(a: Path, b: Path, **options: Any) -> dict[str, Any]:
    return compare(*open_contenders([a, b]), **options)


def test_evaluate_folders(tmp_path: Path) -> None:
    good, bad = evaluated(tmp_path / "a", noise=0.3), evaluated(tmp_path / "b", noise=4, seed=1)
    found = both(good, bad)
    row = difference(found)
    assert row["diff"] == row["a"] - row["b"] > 0 and row["lo"] > 0 and row["p"] < 0.01
    assert 0 < row["smallest"] < row["diff"]
    assert [(r["run"], r["direction"]) for r in found["benches"][0]["rows"] if r["lang"] == "en"] == [
        ("a", "t2v"), ("a", "v2t"), ("b", "t2v"), ("b", "v2t"),
    ]  # fmt: skip
    a, b = (found["benches"][0]["protocols"][run] for run in "ab")
    assert a["model"] != b["model"] and a["ids"] == b["ids"] and a["name"] == "custom"


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        (
            {"lost": 2},
            "missing: .*; pictures: ",
            "--intersect.*--allow missing --allow pictures .*official",
        ),
        ({"num": 39}, "ids: .*; texts: ", "--intersect"),
        ({"made_with": {"frames": "uniform-12"}}, r"frames: keyframe-8, .* and uniform-12", "--allow frames"),
        ({"texts": ["other"] * 80}, "texts: ", "--intersect"),
        ({"video_frames": ["other"] * 40}, "pictures: ", "--intersect"),
        ({"protocol": "mine"}, "name: custom and mine", "--allow name"),
    ],
)
def test_unlike_protocols_are_refused_by_field(tmp_path: Path, changes: dict[str, Any], field: str, hint: str) -> None:
    a, b = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", **changes)
    with pytest.raises(M2raapError, match=f"custom.* differ in {field}.*{hint}"):
        both(a, b)


def test_a_field_may_be_allowed_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (
        evaluated(tmp_path / "a", noise=0.3),
        evaluated(tmp_path / "b", noise=4, seed=1, made_with={"frames": "uniform-12"}),
    )
    found = both(a, b, allow=["frames"])
    print_comparison(found)
    shown = capsys.readouterr().out
    assert (
        "allowed to differ: frames: " in shown and "frames: keyframe-8, short side 256 px (0123) | uniform-12" in shown
    )
    assert (clear := difference(found))["p"] < 0.05 and clear["diff"] > 0
    latex = as_latex(found)
    assert "textbf" not in latex and "Bold" not in latex, "no row is bold where protocols differ"
    assert latex.count(r"custom$^{1}$") == 8 and re.search(r"\$\^\{1\}\$ .*differ in frames \(keyframe-8", latex)
    assert "textbf" in as_latex(both(a, evaluated(tmp_path / "c", seed=1, noise=4), allow=["frames"])), "frames agree"
    with pytest.raises(UsageError, match="--allow colour: .*name, ids"):
        both(a, b, allow=["colour"])


def test_intersection_scores_both_again(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "a", lost=4), evaluated(tmp_path / "b", noise=2, seed=1, num=38)
    with pytest.raises(M2raapError, match="--intersect"):
        both(a, b)
    # The vectors of 38 clips are other random numbers, although `pictures` agree: this test is on which clips are queries.
    found = both(a, b, intersect=True)
    (bench,) = found["benches"]
    assert bench["note"].startswith("on the intersection, n=34 clips, 68 texts")
    assert {(row["queries"], row["gallery"], row["missing"], row["comparable"]) for row in bench["rows"]} == {
        (34, 34, 0, False)
    }
    assert {row["scope"] for row in bench["rows"]} == {"intersection"} and not bench["published"]
    assert difference(found)["queries"] == 34
    latex = as_latex(found)
    assert latex.count("custom, intersection$^{1}$ &") == 8 and "\n%" not in latex
    assert r"$^{1}$ Both scored again on the intersection, n=34 clips, 68 texts: not comparable" in latex
    other = evaluated(tmp_path / "c", video_frames=["other"] * 40)
    with pytest.raises(M2raapError, match="36 of the 36 common clips .*v004.*--allow pictures"):
        both(a, other, intersect=True)
    assert both(a, other, intersect=True, allow=["pictures"])["benches"][0]["rows"]


def test_runs_arms_and_training_seeds(tmp_path: Path) -> None:
    arms = {
        "base": {"noise": 3.0},
        "full": {"noise": 0.5},
        "full~1": {"noise": 0.7, "seed": 1},
        "full~2": {"noise": 0.6, "seed": 2},
    }
    run = write_run(tmp_path / "run", arms)
    full, base = open_contender(run), open_contender(run / "base")
    assert (full.name, base.name) == ("run/full", "run/base")
    assert len(full.folders["clips"]) == 3 and len(base.folders["clips"]) == 1
    found = compare(full, base)
    row = next(row for row in found["benches"][0]["rows"] if row["run"] == "a")
    assert row["seeds"] == len(row["seeds_r1"]) == 3 and row["deviation_r1"] is not None
    assert row["metrics"]["R@1"] == pytest.approx(sum(row["seeds_r1"]) / 3, abs=1e-5)
    assert difference(found)["diff"] > 0
    with pytest.raises(M2raapError, match="no arm 'bench'.*base, full"):
        open_contender(run / "bench")
    with pytest.raises(M2raapError, match="neither a run"):
        open_contender(tmp_path)


def test_thresholds(tmp_path: Path) -> None:
    good, bad = open_contenders([evaluated(tmp_path / "a", noise=0.3), evaluated(tmp_path / "b", noise=4, seed=1)])
    assert failed_thresholds(alone(good), 50, compare(good, bad)) == []
    assert failed_thresholds(alone(good), None, compare(good, good)) == []
    failed = failed_thresholds(alone(bad), 50, compare(bad, good))
    assert "custom en t2v R@1" in failed[0] and "of b/evaluate (official row) is under --min-r1 50" in failed[0]
    assert any("R@1 of b/evaluate is" in sentence and "points below a/evaluate" in sentence for sentence in failed)
    assert failed_thresholds(alone(good), float("nan"))


def test_thresholds_are_on_every_benchmark_and_on_official_rows(tmp_path: Path) -> None:
    good, bad = evaluated(tmp_path / "a", noise=0.1), evaluated(tmp_path / "b", noise=9, seed=1)
    one, two = Contender("one", {"x": [good]}), Contender("two", {"x": [good], "y": [bad]})
    assert compare(two, one)["lacking"] == {"a": [], "b": ["y"]}
    assert [sentence[:7] for sentence in failed_thresholds(alone(two), 30)] == ["y en t2", "y zh t2"]
    (sentence,) = failed_thresholds(alone(one), 30, compare(one, two))
    assert sentence.startswith("one ") and "benchmark 'y'" in sentence
    assert failed_thresholds(alone(two), 0, compare(two, one)) == []
    lossy = evaluated(tmp_path / "c", noise=0.1, lost=30)  # finds what it has left, on the intersection
    done = m2raap("report", "compare", lossy, good, "--intersect", "--min-r1", "50", "--latex", check=4)
    assert "R@1 25.00 of c/evaluate (official row) is under --min-r1 50" in done.stderr
    assert "c/evaluate & custom, intersection$^{1}$ & en t2v & 100.0" in done.stdout
    latex = as_latex(alone(open_contender(lossy)))
    assert "$^{1}$ 30 of 40 queries are of missing videos and count as misses." in latex
    with pytest.raises(M2raapError, match="--allow missing --allow pictures .*official rows"):
        compare(*open_contenders([lossy, good]))
    allowed = compare(*open_contenders([lossy, good]), allow=["missing", "pictures"])
    assert len(failed_thresholds(alone(open_contender(lossy)), None, allowed)) == 4


def test_sides_are_told_apart(tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "c"):
        evaluated(tmp_path / name)
    paths = [tmp_path / name / "evaluate" for name in ("a/x", "b/x", "c", "a/x")]
    assert [side.name for side in open_contenders(paths)] == [
        "a/x/evaluate",
        "b/x/evaluate",
        "c/evaluate",
        "a/x/evaluate",
    ]
    assert [side.name for side in open_contenders(paths[:1])] == ["evaluate"]


def test_published_rows_are_marked_and_cited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = [f"v{i:04d}" for i in range(1000)]
    folder = evaluated(tmp_path / "a", "msrvtt-1ka-jsfusion", num=1000, langs=("en",), text_ids=fresh)
    found = both(folder, folder)
    print_comparison(found)
    shown = capsys.readouterr().out
    assert "[published] CLIP ViT-B/32 frame mean" in shown and "Portillo-Quintero et al. 2021" in shown
    latex = as_latex(found)
    assert r"CLIP ViT-B/32 frame mean$^\dagger$ & msrvtt-1ka-jsfusion & en t2v & 31.2" in latex
    # Values stand in the column of their metric: M2-RAAP's figure has means of R@1, R@5 and R@10.
    assert r"M2-RAAP$^\dagger$ & msrvtt-1ka-jsfusion & en t2v &  &  &  & 65.7 &  \\" in latex
    assert latex.count(r"\\") == 1 + 4 + 10
    assert r"\begin{tabular}{lllrrrrr}" in latex and "R@1 & R@5 & R@10 & MeanR & MdR" in latex
    assert "8 comparisons; neither intervals nor p are corrected" in latex and "8 comparisons; neither" in shown
    assert r"$^\dagger$ As published" in latex and "InternVideo2-s2 6B: InternVideo2, table 9; a matching head" in latex


def test_two_way_accuracy_is_compared_over_twins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = {f"v{i:03d}": f"v{i ^ 1:03d}" for i in range(40)}
    good = evaluated(tmp_path / "a", noise=0.3, twins=twins)
    found = both(good, evaluated(tmp_path / "b", noise=8, seed=1, twins=twins))
    (bench,) = found["benches"]
    rows = [(row["run"], row["lang"], row["direction"], row["n"]) for row in bench["two_way"]]
    assert rows == [(run, lang, way, 40) for run in "ab" for lang in ("en", "zh") for way in ("t2v", "v2t")]
    row = difference(found, metric="two-way")
    assert row["a"] == bench["two_way"][0]["accuracy"] > row["b"] and row["diff"] == pytest.approx(row["a"] - row["b"])
    print_comparison(found)
    shown = capsys.readouterr().out
    assert "Two-way accuracy, a clip or its twin, chance 50" in shown and " two-way " in shown
    assert "two-way accuracy between a clip and its twin (chance 50) 100.0" in as_latex(found)
    assert (
        both(good, evaluated(tmp_path / "c"))["benches"][0]["two_way"][-1]["run"] == "a"
    )  # the other one has no twins


def test_latex_is_escaped(tmp_path: Path) -> None:
    found = both(evaluated(tmp_path / "a"), evaluated(tmp_path / "b"))
    found["a"] = r"50%_{\x}&~^#$"
    assert r"50\%\_\{\textbackslash{}x\}\&\textasciitilde{}\textasciicircum{}\#\$ &" in as_latex(found)


def test_exit_codes(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "a", noise=0.3), evaluated(tmp_path / "b", noise=4, seed=1)
    done = m2raap("report", "compare", b, "--min-r1", "90", "--no-worse-than", a, "--json", check=4)
    assert "custom en t2v R@1" in done.stderr and len(json.loads(done.stdout)["failed_thresholds"]) >= 4
    m2raap("report", "compare", a, b, "--min-r1", "50", check=0)
