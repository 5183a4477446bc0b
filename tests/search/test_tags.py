from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.tables import write_table
from m2raap.core.view import open_view
from m2raap.pipeline.inspect import check
from m2raap.search.backend import ClipFilter
from m2raap.search.gallery import Gallery
from m2raap.search.index import make_index
from m2raap.search.search import Search
from m2raap.search.tags import tags_of_signals
from tests.conftest import digests, sign_again
from tests.search.world import TINY, index_of, rows, tagged, view_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight clips of four colours; `Circle` is probable in c0 (0.85) to c7 (0.5), `square` in none."""
    return index_of(tmp_path_factory.mktemp("tags"), tagged(rows(8)))


@pytest.fixture(scope="module")
def search(folder: Path) -> Search:
    return Search(folder)


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["clip_id"] for hit in hits]


def has(*tags: str, **more: Any) -> ClipFilter:
    return ClipFilter(tags=tags, **more)


def test_an_index_keeps_the_tags_of_its_view(folder: Path, tmp_path: Path) -> None:
    gallery = Gallery.open(folder)
    clip = gallery.clip(gallery.row_of["c1"])
    assert clip["tags"] == ["blue / 蓝色", "Circle", "square"] and clip["tags_p"] == [0.89, 0.8, 0.2]
    assert [row["state"] for row in check(folder)] == ["ok"]
    without = Gallery.open(index_of(tmp_path, rows(2)))
    assert without.clip(0)["tags"] == without.clip(0)["tags_p"] == []


def test_an_updated_index_has_the_tags_of_one_made_at_once(tmp_path: Path) -> None:
    clips = tagged(rows(8))
    first = index_of(tmp_path / "a", clips[:4])
    make_index(first, view_of(tmp_path / "b", clips[4:]), None, add=True)
    make_index(first, None, None, remove={"c1", "c6"})
    again = tmp_path / "again" / "index"
    make_index(again, view_of(tmp_path / "a", [clips[0], *clips[2:4]]), TINY)
    make_index(again, view_of(tmp_path / "b", [*clips[4:6], clips[7]]), None, add=True)
    names = [name for name in digests(first) if name.startswith("clips/") or name.endswith(".npy")]
    assert len(names) == 3 and [digests(first)[name] for name in names] == [digests(again)[name] for name in names]
    assert ids(Search(first).by_tags(8, has("circle"))) == ["c0", "c2", "c3", "c4", "c5", "c7"]


def test_other_tags_of_the_same_frames_need_no_model(tmp_path: Path) -> None:
    folder = index_of(tmp_path, tagged(rows(4)))
    view = view_of(tmp_path, [row | {"tags": [("new", 0.7)]} for row in rows(4)])
    counts = make_index(folder, view, None, add=True)
    assert (counts["kept"], counts["embedded"]) == (4, 0)
    assert Search(folder).by_tags(9, has("new"))[0]["tags"] == [{"tag": "new", "p": 0.7}]


def test_an_index_that_was_made_before_tags_were_kept_is_read(tmp_path: Path) -> None:
    folder = index_of(tmp_path, tagged(rows(3)))
    part = folder / "clips" / "part-00000.parquet"
    write_table(part, pq.read_table(part).drop_columns(["tags", "tags_p"]))
    sign_again(folder)
    old = Search(folder)
    assert ids(old.by_text("a red circle", 1)) == ["c0"] and old.about()["tags"] == []
    with pytest.raises(UsageError, match="--tag red: no clip of the index has tags; index a view .*annotate"):
        old.by_text("a red circle", 1, has("red"))
    make_index(folder, None, None, remove={"c2"})
    assert Gallery.open(folder).clip(0)["tags"] == []
    make_index(folder, open_view(tmp_path / "annotate"), None, add=True)
    assert ids(Search(folder).by_tags(9, has("red"))) == ["c0"]


@pytest.mark.parametrize(
    ("tags", "p"),
    [(["a"], [0.5, 0.5]), (["a"], [1.5]), (["a"], [float("nan")]), (["a"], [None]), ("a", [0.5]), ([None], [0.5])],
)
def test_signals_that_are_no_tags_are_refused_by_the_clips_name(tags: Any, p: Any) -> None:
    with pytest.raises(M2raapError, match="clip 'c7': its signals tags and tags_p "):
        tags_of_signals("c7", {"tags": tags, "tags_p": p})
    assert tags_of_signals("c7", {"tags": tags}) == ([], []), "tags that another list states, without probabilities"


@pytest.mark.parametrize("tag", ["red / 红色", "RED", "红色", " red "])
def test_a_tag_is_named_by_its_whole_name_or_by_a_part(search: Search, tag: str) -> None:
    assert ids(search.by_tags(9, has(tag))) == ["c0", "c4"]


def test_all_tags_have_to_be_there_with_the_probability(search: Search) -> None:
    assert set(ids(search.by_text("a blue circle", 9, has("red", "circle")))) == {"c0", "c4"}
    assert set(ids(search.by_text("a blue circle", 9, has("red", "circle", tag_p=0.7)))) == {"c0"}
    assert search.by_text("a blue circle", 9, has("red", "蓝色")) == [] == search.by_tags(9, has("square"))
    assert len(search.by_tags(9, has("square", tag_p=0.2))) == 8 == len(search.by_tags(9, has("circle", tag_p=0.0)))
    assert ids(search.by_tags(9, has("circle", source="b", max_s=1.7))) == ["c1", "c3", "c5"]
    assert ids(search.like("c0", 9, has("red"))) == ["c4"]


def test_tags_alone_rank_by_the_product_of_their_probabilities(search: Search) -> None:
    hits = search.by_tags(3, has("circle"))
    assert [(hit["rank"], hit["clip_id"], hit["score"]) for hit in hits] == [
        (1, "c0", 0.85),
        (2, "c1", 0.8),
        (3, "c2", 0.75),
    ]
    assert [hit["score"] for hit in search.by_tags(9, has("circle", "red"))] == [0.765, 0.559]
    assert sorted(frame["n"] for frame in hits[0]["frames"]) == [0, 1, 2] and hits[0]["frames"][0]["score"] > 0.9
    with pytest.raises(M2raapError, match="--top 201"):
        search.by_tags(201, has("circle"))


def test_an_unknown_tag_names_the_nearest(search: Search) -> None:
    with pytest.raises(UsageError, match="--tag rad: is no tag of the index; did you mean 'red'"):
        search.by_tags(3, has("rad"))
    with pytest.raises(UsageError, match="expected one of circle, red / 红色, .*, square, red, 红色, "):
        search.by_text("red", 3, has("circle", "zzzz"))
    with pytest.raises(UsageError) as refused:
        search.by_tags(3, has("z" * 100_000))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_the_best_of_the_clips_with_a_tag_not_those_of_the_best_clips(tmp_path: Path, kind: str, monkeypatch) -> None:
    """Sixty red clips are nearer to the query than the two others that have the rare tag."""
    monkeypatch.setattr("m2raap.retrieval.index.SCAN_MOST", 0)
    clips = [row | {"colour": "red", "tags": [("common", 0.9)]} for row in rows(60)]
    rare = [row | {"colour": "blue", "tags": [("rare", 0.6)]} for row in rows(2, first=60)]
    search = Search(index_of(tmp_path, clips + rare, kind=kind))
    assert not {"c60", "c61"} & set(ids(search.by_text("a red circle", 20)))
    monkeypatch.setattr(search, "_faiss", replace(search._faiss, index=None))  # which proposes rows that may miss some
    assert set(ids(search.by_text("a red circle", 5, has("rare")))) == {"c60", "c61"}
    vectors_NE, row_of = search.gallery.vectors_NE, search.gallery.row_of
    scores_N = np.einsum("ne,e->n", vectors_NE, vectors_NE[row_of["c60"]])
    best = sorted(
        (f"c{number}" for number in range(60)), key=lambda clip_id: (-scores_N[row_of[clip_id]], row_of[clip_id])
    )
    assert ids(search.like("c60", 60, has("common"))) == best


def test_facets_count_the_clips_that_they_would_leave(search: Search) -> None:
    about = {row["tag"]: row["clips"] for row in search.about()["tags"]}
    assert about == {"Circle": 8, "red / 红色": 2, "blue / 蓝色": 2, "green / 绿色": 2, "yellow / 黄色": 2}
    hits = search.by_text("a red circle", 2)
    assert search.facets(hits, ClipFilter()) == [{"tag": "Circle", "clips": 8}, {"tag": "red / 红色", "clips": 2}]
    for row in search.facets(search.by_text("red", 8, has("Circle")), has("Circle")):
        assert len(search.by_text("red", 9, has("Circle", row["tag"]))) == row["clips"]
    only_b = ClipFilter(source="b")
    assert {(row["tag"], row["clips"]) for row in search.facets(search.by_text("red", 9, only_b), only_b)} == {
        ("Circle", 4), ("blue / 蓝色", 2), ("yellow / 黄色", 2),
    }  # fmt: skip


def test_labels_that_share_a_name_count_together(tmp_path: Path) -> None:
    """Of two views with taggers of their own."""
    tags = [[("red / 红色", 0.9), ("RED", 0.6)], [("Red", 0.8)], [("red / 红色", 0.7)], []]
    search = Search(index_of(tmp_path, [row | {"tags": own} for row, own in zip(rows(4), tags, strict=True)]))
    assert [(hit["clip_id"], hit["score"]) for hit in search.by_tags(9, has("red"))] == [
        ("c0", 0.9),
        ("c1", 0.8),
        ("c2", 0.7),
    ]
    assert ids(search.by_tags(9, has("红色"))) == ["c0", "c2"]
    assert {row["tag"]: row["clips"] for row in search.about()["tags"]} == {"red / 红色": 2, "RED": 3, "Red": 3}


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    query = ["search", "query", str(folder)]
    printed = CliRunner().invoke(app, [*query, "--tag", "red"], catch_exceptions=False).stdout
    assert "  1  0.9000  c0  " in printed and "     tags: red / 红色 0.90, Circle 0.85\n" in printed
    words = [*query, "a blue circle", "--tag", "红色", "--tag", "Circle", "--tag-p", "0.7", "--json"]
    tree = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert ids(tree["hits"]) == ["c0"] and tree["hits"][0]["tags"][2] == {"tag": "square", "p": 0.2}
    nothing = CliRunner().invoke(app, [*query, "a circle", "--tag", "square"], catch_exceptions=False).stdout
    assert nothing == "no clip of the index satisfies --source, --min-s, --max-s and --tag\n"
    for words, message in (
        ([*query], "or --tag alone"),
        ([*query, "red", "--tag-p", "0.7"], "--tag-p says"),
        ([*query, "--tag", "rad"], "--tag rad: "),
    ):
        refused = CliRunner().invoke(app, words)
        assert isinstance(refused.exception, UsageError) and message in str(refused.exception)
    view = view_of(tmp_path, rows(2))
    make_index(tmp_path / "index", view, TINY)
    assert "tags" not in CliRunner().invoke(app, ["search", "query", str(tmp_path / "index"), "red"]).stdout
