from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import write_json
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages.bank import IDS, VECTORS, Bank, ClipIdentity, make_bank
from m2raap.stages.evaluate import EvaluateStage, evaluate_folder, read_ranks, side_lines
from tests.conftest import sign_again
from tests.stages.embedded import evaluated, write_embedded


def results(folder: Path, name: str = "") -> dict[str, Any]:
    return json.loads((folder / f"results{name}.json").read_text(encoding="utf-8"))


def r1(tree: dict[str, Any], lang: str, direction: str) -> float:
    (row,) = [row for row in tree["rows"] if (row["lang"], row["direction"], row["slice"]) == (lang, direction, "all")]
    return row["metrics"]["R@1"]


def candidates(num: int, right: float) -> bytes:
    """Two candidates of each query, in both directions and languages: the match with score `right`, its neighbour with 0."""
    own = np.arange(num)
    both = np.stack([(own + 1) % num, own], axis=1).astype(np.int32)
    scores = np.tile([0.0, right], (num, 1))
    tables = {"name": np.asarray("mug")}
    for start, lang in ((0, "en"), (num, "zh")):
        tables |= {f"{lang}-t2v-ids": both, f"{lang}-v2t-ids": both + start}
        tables |= {f"{lang}-t2v-scores": scores, f"{lang}-v2t-scores": scores}
    sink = io.BytesIO()
    np.savez(sink, **tables)
    return sink.getvalue()


@pytest.mark.parametrize(("right", "expected"), [(0.5, 100.0), (-0.5, 0.0)])
def test_an_interaction_reranks_in_a_file_of_its_own(tmp_path: Path, right: float, expected: float) -> None:
    write_embedded(tmp_path / "e", extra={"rerank.npz": candidates(40, right)})
    output = evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v")
    assert {"results-rerank.json", "ranks-rerank.parquet"} <= set(output.files)
    tree = results(tmp_path / "v", "-rerank")
    assert tree["rescored"] == {"name": "rerank", "label": "late interaction (mug) over the first 2"}
    assert {r1(tree, lang, direction) for lang in ("en", "zh") for direction in ("t2v", "v2t")} == {expected}
    assert "rescored" not in results(tmp_path / "v") and 10 < r1(results(tmp_path / "v"), "en", "t2v") < 100
    ranks = read_ranks(tmp_path / "v" / "ranks-rerank.parquet")
    assert {row["rank_pessimistic"] for row in ranks} == {1 if right > 0 else 2}
    assert any("not the headline, rerank" in line for line in side_lines(tmp_path / "v"))


def test_candidates_leave_v2t_out_where_a_video_has_several_texts(tmp_path: Path) -> None:
    owners = [f"v{i // 2:03d}" for i in range(40)] * 2
    write_embedded(tmp_path / "e", text_video_ids=owners, extra={"rerank.npz": candidates(40, 0.5)})
    evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v")
    tree = results(tmp_path / "v", "-rerank")
    assert {row["direction"] for row in tree["rows"]} == {"t2v"}
    assert tree["rescored"]["label"].endswith("v2t is left out: several texts a video")


def write_bank(
    folder: Path, texts: list[str], model: str = "model0", lang: str = "en", clips: list[ClipIdentity] | None = None
) -> Bank:
    clips = clips or [ClipIdentity("t000", "t000.mp4", None)]

    def work(target: Path) -> StageOutput:
        np.save(target / VECTORS, np.random.default_rng([2]).normal(size=(len(texts), 16)).astype(np.float32))
        names = {"clip_ids": [c.clip_id for c in clips], "videos": [c.video for c in clips]}
        names["frames"] = [c.frames for c in clips]
        write_json(target / IDS, {"texts": texts, "langs": [lang] * len(texts), **names, "corpus": "c"})
        return StageOutput([VECTORS, IDS], {}, {"model": model})

    run_single_stage("bank", 2, {}, folder, work)
    return Bank.open(folder)


def test_rescored_rows_are_labelled(tmp_path: Path) -> None:
    write_embedded(tmp_path / "e", langs=("en",))
    bank = write_bank(tmp_path / "b", ["a dog runs", "two cats sleep", "a man cooks"])
    evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v", EvaluateConfig(dual_softmax=100.0), bank)
    dual, normed = results(tmp_path / "v", "-dual_softmax"), results(tmp_path / "v", "-qb_norm")
    assert dual["rescored"]["label"].startswith("transductive: sees all queries")
    assert "inverse temperature 100" in dual["rescored"]["label"]
    assert "bank of 3 training texts" in normed["rescored"]["label"]
    assert {row["direction"] for row in normed["rows"]} == {"t2v"}
    plain = results(tmp_path / "v")
    assert dual["protocol"] == plain["protocol"] and r1(dual, "en", "t2v") != r1(plain, "en", "t2v")
    write_embedded(tmp_path / "e1", langs=("en",))
    evaluate_folder(tmp_path / "e1", "custom", 0, tmp_path / "v1")
    assert results(tmp_path / "v1") == plain, "rows beside it do not change the headline"
    assert not list((tmp_path / "v1").glob("results-*"))


def test_a_bank_with_a_query_is_refused(tmp_path: Path) -> None:
    write_embedded(tmp_path / "e", langs=("en",))
    bank = write_bank(tmp_path / "b", ["a dog runs", "Clip v003 in EN!"])
    with pytest.raises(M2raapError, match=r"1 of its texts .*'clip v003 in en'"):
        evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v", None, bank)
    other = write_bank(tmp_path / "o", ["a dog runs"], model="another")
    with pytest.raises(M2raapError, match="another, .*model0"):
        evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v", None, other)
    chinese = write_bank(tmp_path / "z", ["一只狗在跑"], lang="zh")
    with pytest.raises(M2raapError, match="'en'"):
        evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v", None, chinese)
    with pytest.raises(M2raapError, match="holds no bank"):
        Bank.open(tmp_path / "nowhere")


def test_a_bank_with_a_video_of_the_benchmark_is_refused(tmp_path: Path) -> None:
    write_embedded(tmp_path / "e", langs=("en",), lost=1)
    embeddings = Embeddings.load(tmp_path / "e")
    train = ClipIdentity("t000", "train/t000.mp4", "other frames")
    for name, clip, what in (
        ("i", ClipIdentity("v003", "x.mp4", None), "clip: 'v003'"),
        ("m", ClipIdentity("v000", None, None), "clip: 'v000'"),  # missing here, so without frames
        ("n", ClipIdentity("t001", "videos/v003.mp4", None), "video: 'videos/v003.mp4'"),
        ("f", ClipIdentity("t001", None, "frames of v003"), "frames: 'frames of v003'"),
    ):
        bank = write_bank(tmp_path / name, ["a dog runs"], clips=[train, clip])
        with pytest.raises(M2raapError, match=rf"1 of its 2 clips show videos.*'{clip.clip_id}' \(the same {what}"):
            bank.check(embeddings, {"v003": "videos/v003.mp4"})
    write_bank(tmp_path / "t", ["a dog runs"], clips=[train]).check(embeddings, {"v003": "videos/v003.mp4"})
    write_json(tmp_path / "t" / IDS, {"texts": [], "langs": [], "corpus": "c"})
    sign_again(tmp_path / "t")
    with pytest.raises(M2raapError, match="lacks .clip_ids."):
        Bank.open(tmp_path / "t")


def corpus(folder: Path, clips: dict[str, str], benchmark: str | None = None) -> View:
    """clip -> video; a text a clip, its id in words."""
    rows = [{"clip_id": i, "video": video, "split": "test" if benchmark else "train"} for i, video in clips.items()]
    texts = [
        {"text_id": f"{i}.en0", "clip_id": i, "lang": "en", "text": f"a film of {i}", "origin": "raw"} for i in clips
    ]
    texts = [row | {"producer": "hand", "active": True} for row in texts]
    write_corpus(folder, rows, texts, video_root=folder, source={}, benchmark=benchmark, num_parts=1)
    return View(folder)


class Counting:
    digest, preprocess = "counting", "none"

    def texts(self, texts: list[str]) -> np.ndarray:
        return np.asarray([[1.0, float(i)] for i in range(len(texts))])


def test_a_bank_leaves_the_videos_of_without_out(tmp_path: Path) -> None:
    train = corpus(tmp_path / "C", {"a": "a.mp4", "b": "b.mp4", "c.2": "c.mp4", "d": "d.mp4"})
    bench = corpus(tmp_path / "B", {"b": "other.mp4", "c.1": "c.mp4"}, "mine")
    (tmp_path / "bank").mkdir()
    output = make_bank(train, [bench], Counting(), tmp_path / "bank")  # type: ignore[arg-type]
    assert output.counts == {"texts": 2, "clips": 2, "left_out": 2}
    tree = json.loads((tmp_path / "bank" / IDS).read_text(encoding="utf-8"))
    assert (tree["clip_ids"], tree["videos"], tree["texts"]) == (
        ["a", "d"], ["a.mp4", "d.mp4"], ["a film of a", "a film of d"],
    )  # fmt: skip


def test_a_benchmark_that_nobody_declared_is_marked(tmp_path: Path) -> None:
    own = evaluated(tmp_path / "own", "C-holdout-40-seed0")
    assert (results(own)["protocol"]["declared"], results(own)["protocol"]["benchmark"]) == (False, None)
    assert "'C-holdout-40-seed0' is an undeclared benchmark" in side_lines(own)[-1]
    assert results(evaluated(tmp_path / "custom"))["protocol"]["declared"]
    with pytest.raises(UsageError, match="'world-motoin'.*'world-motion'"):
        evaluated(tmp_path / "typo", "world-motoin")
    names = [f"v{i:03d}" for i in range(40)]
    with pytest.raises(M2raapError, match="0 en texts of v000 instead of 1"):
        evaluated(tmp_path / "moved", "world-motion", langs=("en",), text_video_ids=["v001", *names[1:]])


def test_negative_own_scores_are_told(tmp_path: Path) -> None:
    write_embedded(tmp_path / "e", langs=("en",), noise=6.0)
    evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v", EvaluateConfig(dual_softmax=20.0))
    assert re.search(r"\b6 of 40\b.*CAMoE", results(tmp_path / "v", "-dual_softmax")["rescored"]["label"])


def test_counts_are_checked_by_language_and_for_a_users_benchmark(tmp_path: Path) -> None:
    write_embedded(tmp_path / "e", lost=3)
    fields = {"protocol": "mine", "langs": ["en", "zh"], "num_videos": 40, "num_texts": {"en": 40, "zh": 40}}
    fields |= {"source": "list.csv", "revision": "1", "citation": "none"}
    evaluate_folder(tmp_path / "e", "mine", 0, tmp_path / "v", EvaluateConfig(benchmarks={"mine": fields}))
    assert results(tmp_path / "v")["protocol"]["benchmark"]["citation"] == "none"
    fields["num_texts"] = {"en": 40, "zh": 39}
    with pytest.raises(M2raapError, match="benchmark mine: 40 zh texts instead of 39"):
        evaluate_folder(tmp_path / "e", "mine", 0, tmp_path / "w", EvaluateConfig(benchmarks={"mine": fields}))
    with pytest.raises(M2raapError, match="40 videos instead of 670"):
        evaluate_folder(tmp_path / "e", "msvd", 0, tmp_path / "w")


def test_two_languages_stand_beside_the_headline(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    assert [row["direction"] for row in results(folder)["bilingual"]] == ["t2v", "v2t"]
    assert "R@1 en minus zh" in side_lines(folder)[0]
    assert results(evaluated(tmp_path / "one", langs=("en",)))["bilingual"] == []


def test_two_way_accuracy_is_in_every_file_of_results(tmp_path: Path) -> None:
    """The clips are their own texts but for noise; the frames of the ablation are those of the twin."""
    names = [f"v{i:03d}" for i in range(40)]
    twins = {name: names[i ^ 1] for i, name in enumerate(names)}
    video = np.random.default_rng([1]).normal(size=(40, 16)).astype(np.float32)
    sink = io.BytesIO()
    np.save(sink, video[np.arange(40) ^ 1])
    write_embedded(tmp_path / "embed", noise=0.3, twins=twins, extra={"video-reversed.npy": sink.getvalue()})
    EvaluateStage(EvaluateConfig(dual_softmax=10.0)).run_on(tmp_path / "embed", "custom", tmp_path / "evaluate")
    for name, expected in (("", 100.0), ("-reversed", 0.0), ("-dual_softmax", 100.0)):
        rows = results(tmp_path / "evaluate", name)["two_way"]
        assert [(row["lang"], row["direction"], row["n"], row["pairs"], row["accuracy"]) for row in rows] == [
            (lang, direction, 40, 20, expected) for lang in ("en", "zh") for direction in ("t2v", "v2t")
        ]
    told = [line for line in side_lines(tmp_path / "evaluate") if line.startswith("two-way")]
    assert (
        len(told) == 3
        and "chance 50: en t2v 100.0 (" in told[0]
        and ", reversed, chance 50: en t2v 0.0" in "".join(told)
    )
    assert "two_way" not in results(evaluated(tmp_path / "without"))
