"""Reranking: what `embed` writes against the interaction's scores, pair by pair, and what `evaluate` makes of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.config import (
    AnyInteraction,
    BackboneConfig,
    CaptionGuidedMugConfig,
    FineConfig,
    MeanConfig,
    MugConfig,
)
from m2raap.models.families import load_backbone
from m2raap.models.interaction.phrases import token_spans
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits
from m2raap.models.video_clip import VideoCLIP
from m2raap.stages import embed as embedding
from m2raap.stages import embed_parts
from m2raap.stages.embed import EmbedConfig, embed
from m2raap.stages.embedder import ClipFrame, VideoClipEmbedder
from m2raap.stages.evaluate import evaluate_folder
from m2raap.stages.rerank import NAME, RerankConfig, interaction_of
from tests.stages.adapted import drawn_benchmark
from tests.stages.embedded import write_embedded
from tests.stages.test_evaluate import r1, results


def model_with(interaction: AnyInteraction | None) -> VideoCLIP:
    model = VideoCLIP(load_backbone(BackboneConfig()), MeanConfig(), interaction=interaction)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.interaction.parameters() if model.interaction else ():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def tables_of(folder: Path, name: str = NAME) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.mark.parametrize(
    "interaction",
    [
        MugConfig(),
        FineConfig(clip_units="patches"),
        FineConfig(form="fg2", text_units="tokens"),
        CaptionGuidedMugConfig(),
    ],
    ids=["mug", "patches", "tokens", "guided"],
)
def test_all_pairs_and_candidates(tmp_path: Path, interaction: AnyInteraction) -> None:
    view, model = drawn_benchmark(tmp_path), model_with(interaction)
    for name, candidates in (("all", None), ("first", 2)):
        (tmp_path / name).mkdir()
        cfg = EmbedConfig(rerank=RerankConfig(candidates=candidates))
        output = embed(view, cfg, model, tmp_path / name)
        assert "rerank.npz" in output.files
    whole, first = tables_of(tmp_path / "all"), tables_of(tmp_path / "first")
    assert str(whole["name"]) == interaction.name
    embedder = VideoClipEmbedder(model)
    embedder.needs = model.interaction.needs
    (part,) = view.parts(("texts", "jpegs"))
    clips = [[ClipFrame(jpeg) for jpeg in part.frames[row["clip_id"]]["jpegs"]] for row in part.clips]
    with torch.inference_mode():
        _, parts = embedder.videos(clips)
        units = ClipUnits(**{key: torch.from_numpy(np.stack([p[key] for p in parts])) for key in parts[0]})
        for lang in ("en", "zh"):
            texts = [row["text"] for row in part.texts if row["lang"] == lang]
            tokenize = model.backbone.tokenize
            read = model.text_units(tokenize(texts), model.interaction.needs, token_spans(texts, tokenize))
            expected = score_matrix(model.interaction, read, units).numpy()
            np.testing.assert_allclose(whole[f"{lang}-scores"], expected, atol=2e-6)
            ids, scores = first[f"{lang}-t2v-ids"], first[f"{lang}-t2v-scores"]
            np.testing.assert_allclose(scores, np.take_along_axis(expected, ids, 1), atol=2e-6)
            assert ids.shape == (4, 2)


def test_captions_and_those_of_another_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = drawn_benchmark(tmp_path)
    monkeypatch.setattr(embed_parts, "frame_captions", lambda texts, num, langs: [texts[0]["text"]] * num)
    monkeypatch.setattr(embedding, "describe_frames", lambda *_: "frames")
    model = model_with(CaptionGuidedMugConfig(add_captions=True))
    (tmp_path / "e").mkdir()
    cfg = EmbedConfig(
        captions=True, frame_ablations=("reversed", "other_captions"), rerank=RerankConfig(candidates=None)
    )
    output = embed(view, cfg, model, tmp_path / "e")
    assert {"rerank.npz", "rerank-uncaptioned.npz", "rerank-other_captions.npz"} <= set(output.files)
    assert "rerank-reversed.npz" not in output.files
    scores = [
        tables_of(tmp_path / "e", name)["en-scores"] for name in (NAME, f"{NAME}-uncaptioned", f"{NAME}-other_captions")
    ]
    assert all(
        np.abs(a - b).max() > 1e-3 for a, b in ((scores[0], scores[1]), (scores[0], scores[2]), (scores[1], scores[2]))
    )


def test_exchanged_captions_are_never_a_clips_own() -> None:
    clips = [[ClipFrame(b"a", "A"), ClipFrame(b"b")], [ClipFrame(b"c")], [ClipFrame(b"d", "D")] * 3]
    exchanged = embed_parts._with_captions_of_the_next(clips)
    assert [[frame.caption for frame in frames] for frames in exchanged] == [["D", "D"], ["D"], ["A", None, "A"]]
    assert [[frame.jpeg for frame in frames] for frames in exchanged] == [[b"a", b"b"], [b"c"], [b"d"] * 3]
    assert embed_parts._with_captions_of_the_next([clips[0]]) == [[ClipFrame(b"a"), ClipFrame(b"b")]]


def test_settings_that_cannot_rerank(tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path)
    with pytest.raises(
        M2raapError, match=r"embed.rerank: this model was adapted without an interaction.*embed.rerank.interaction"
    ):
        embed(view, EmbedConfig(rerank=RerankConfig()), model_with(None), tmp_path)
    for settings, words in (
        ({"interaction": {"name": "mug"}}, r"embed.rerank.interaction.start gate.*open"),
        ({"interaction": {"name": "caption_guided_mug", "start": "open"}}, "expected tags: 'mug', 'fine'"),
    ):
        with pytest.raises(UsageError, match=words):
            build(EmbedConfig, {"rerank": settings}, "mine.yaml")
    with pytest.raises(UsageError, match=r"other_captions.*embed.captions"):
        build(EmbedConfig, {"frame_ablations": ["other_captions"]}, "mine.yaml")
    named = RerankConfig(interaction=FineConfig(start="open", clip_units="patches"))
    model = model_with(None)
    assert interaction_of(model, named)[1] == "fine" and model.keeps_patches


def stored(tables: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **tables)
    return sink.getvalue()


def test_a_table_of_before_interactions_had_names_is_mugs_and_a_mixed_one_says_so(tmp_path: Path) -> None:
    right = np.eye(40, dtype=np.float32)
    for more, words in (
        ({}, "mug"),
        ({"name": np.asarray("fine"), "weight": np.asarray(0.5)}, "fine, weight 0.5 beside the cosine"),
    ):
        folder = tmp_path / words[:4]
        write_embedded(folder / "e", extra={"rerank.npz": stored({**more, "en-scores": right, "zh-scores": right})})
        evaluate_folder(folder / "e", "custom", 0, folder / "v")
        assert results(folder / "v", "-rerank")["rescored"]["label"] == f"late interaction ({words}) over all pairs"


def test_all_pairs_are_evaluated_in_both_directions(tmp_path: Path) -> None:
    """Also where a video has several texts, and under another order of the ids."""
    owners = [f"v{i // 2:03d}" for i in range(40)] * 2
    right = np.asarray([[float(owners[text] == f"v{video:03d}") for video in range(40)] for text in range(40)])
    extra = {"rerank.npz": stored({"name": np.asarray("fine"), "en-scores": right, "zh-scores": -right})}
    write_embedded(tmp_path / "e", text_video_ids=owners, extra=extra)
    evaluate_folder(tmp_path / "e", "custom", 0, tmp_path / "v")
    tree = results(tmp_path / "v", "-rerank")
    assert tree["rescored"] == {"name": "rerank", "label": "late interaction (fine) over all pairs"}
    assert (
        r1(tree, "en", "t2v") == r1(tree, "en", "v2t") == 100.0
        and r1(tree, "zh", "t2v") == r1(tree, "zh", "v2t") == 0.0
    )
