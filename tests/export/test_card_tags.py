from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_json
from m2raap.core.view import open_view
from m2raap.export.card import _tags, dataset_card
from m2raap.export.corpus import curated_steps
from m2raap.pipeline.run_folder import RunFolder
from m2raap.stages.tag_counts import TagCounts
from tests.runs import copied
from tests.stages.tagged import tagged


def test_the_most_frequent_tags_of_what_was_kept(curated: Path, small_world: Path, tmp_path: Path) -> None:
    run, _ = copied(curated, small_world, tmp_path)
    step = curated_steps(RunFolder.open(run))[-1]
    view = open_view(step.folder)
    clips = [clip["clip_id"] for part in view.parts() for clip in part.clips]
    assert "## Tags" not in dataset_card(run)
    tags = {clip: {"red / 红色": 0.5, "never": 0.4} for clip in clips} | {clips[0]: {"a|b <i>": 0.9}}
    folder = tagged(view, run / "annotate", tags)
    tree = read_json(run / "run.json")
    first = next(row for row in tree["steps"] if row["arm"] == step.arm and row["stage"] == step.stage)
    parents = [*first["parents"], first["folder"]]
    row = first | {"stage": "annotate", "folder": folder.name, "parents": parents, "key": "k"}
    write_json(run / "run.json", tree | {"steps": [*tree["steps"], row]})
    card = dataset_card(run)
    assert f"gives a tag with p of at least 0.5: {len(clips)} of {len(clips)}. Nobody" in card
    section = card.partition("## Tags\n")[2].partition("\n## ")[0]
    assert f"| red / 红色 | {len(clips) - 1} | {(len(clips) - 1) / len(clips):.1%} |" in section
    assert r"| a\|b \<i\> | 1 |" in section and "never" not in section
    assert "and so do tags that come from its vectors" in card


def test_of_many_tags_the_most_frequent_are_listed() -> None:
    counts = TagCounts()
    for clip in range(40):
        tags = [f"tag{i:02d}" for i in range(clip + 1)]
        counts.add(
            {"tags": tags, "tags_p": [0.9] * len(tags)}, [{"tags_named": ["tag00"]}, {"tags_named": ["tag00"]}, {}]
        )
    card = _tags(counts)
    assert "and the 30 most frequent of 40 tags" in card and "| tag29 |" in card and "| tag30 |" not in card
    assert counts.named == {"tag00": 40} and counts.ordered()[:2] == ["tag00", "tag01"]
    assert _tags(TagCounts()) == ""
    with pytest.raises(M2raapError, match="run annotate again"):
        counts.add({"clip_id": "v", "tags": ["a"], "tags_p": None})
