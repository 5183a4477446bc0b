import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from m2raap.adapt.pixels import Decoding, JpegFrames
from m2raap.adapt.sources import ListSource
from m2raap.adapt.state import Split
from m2raap.adapt.texts import text_table
from m2raap.adapt.tokens import Tokens
from m2raap.adapt.validate import (
    LOSS_CHUNK,
    encode_clips,
    encode_units,
    expected_hits,
    expected_reciprocal_ranks,
    pair_losses,
    ranks_by_score,
    ranks_with_ties,
    validate,
)
from m2raap.core.errors import M2raapError
from m2raap.core.strings import Strings
from m2raap.models.config import BackboneConfig, MeanConfig, MugConfig
from m2raap.models.families import load_backbone
from m2raap.models.interaction.score import score_pairs
from m2raap.models.interaction.units import ClipUnits, select
from m2raap.models.losses import info_nce
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import ordered


def test_ranks_by_hand() -> None:
    video = torch.eye(3)
    text = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    # found; beaten by clip 0; a tie of two counts half; a second query of clip 2 found
    above, ties = ranks_with_ties(text, video, torch.tensor([0, 1, 2, 2]))
    assert above.tolist() == [0, 1, 0, 0] and ties.tolist() == [1, 1, 2, 1]
    assert expected_hits(above, ties).tolist() == [1, 0, 0.5, 1]
    assert expected_reciprocal_ranks(above, ties).tolist() == pytest.approx([1, 1 / 2, (1 + 1 / 2) / 2, 1], abs=1e-12)


def test_expected_values_are_the_means_over_all_orders_of_the_tied() -> None:
    for above, ties in itertools.product(range(4), range(1, 5)):
        ranks = [above + order.index(0) + 1 for order in itertools.permutations(range(ties))]
        at = torch.tensor([above]), torch.tensor([ties])
        assert float(expected_hits(*at)) == pytest.approx(np.mean([rank == 1 for rank in ranks]), abs=1e-12)
        assert float(expected_reciprocal_ranks(*at)) == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-12)


def test_equal_vectors_are_chance() -> None:
    ranked = ranks_with_ties(torch.ones(5, 2), torch.ones(5, 2), torch.arange(5))
    assert float(expected_hits(*ranked).mean()) == pytest.approx(0.2, abs=1e-12)
    assert float(expected_reciprocal_ranks(*ranked).mean()) == pytest.approx(sum(1 / n for n in range(1, 6)) / 5)


def test_vectors_that_are_no_numbers_find_nothing() -> None:
    broken, clips = torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), torch.arange(2)
    for text, video in ((torch.eye(2), broken), (broken, torch.eye(2))):
        with pytest.raises(M2raapError, match=r"validation clips .*NaN.*adapt\.lr"):
            ranks_with_ties(text, video, clips)


def test_pair_losses_are_the_plain_loss_of_their_chunks() -> None:
    rng = torch.Generator().manual_seed(0)
    video, text = (torch.nn.functional.normalize(torch.randn(7, 4, generator=rng), dim=-1) for _ in range(2))
    twins = [torch.eye(3, dtype=torch.bool), torch.eye(4, dtype=torch.bool)]
    twins[1][0, 2] = twins[1][2, 0] = True
    losses = pair_losses(video, text, twins, torch.tensor(20.0))
    for start, stop, mask in ((0, 3, twins[0]), (3, 7, twins[1])):
        plain = info_nce(20 * video[start:stop] @ text[start:stop].T, mask)
        assert losses[start:stop].tolist() == pytest.approx(plain.tolist(), abs=1e-6)


def split_of(source: ListSource, model: VideoCLIP) -> Split:
    texts = text_table(source, model.backbone.tokenizer, ("en", "zh"), {}, {})
    return Split(source.num_clips, JpegFrames(source, model.backbone.preprocess, 4, Decoding()), texts)


def by_hand(similarity_QN: np.ndarray, targets: list[int]) -> dict[str, list[float]]:
    """Reciprocal ranks and hits, by a loop; no ties."""
    ranks = [1 + sum(s > row[target] for s in row) for row, target in zip(similarity_QN, targets, strict=True)]
    return {"mrr": [1 / rank for rank in ranks], "r1": [float(rank == 1) for rank in ranks]}


def test_the_scores_are_those_of_a_loop_over_all_pairs(tiny_dir: Any) -> None:
    """40 clips, so that the loss has two chunks; every third clip has no Chinese text."""
    model = VideoCLIP(load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True)), MeanConfig())
    source = ordered(40, 3)
    for clip in range(0, 40, 3):
        del source.pairs[clip][1]
    for clip, texts in enumerate(source.pairs):  # a word of their own: no two clips share a text
        texts[:] = [(lang, f"{clip} {text}", origin) for lang, text, origin in texts]
    scores = validate(model, split_of(source, model))

    with torch.no_grad():
        video = encode_clips(model, split_of(source, model).frames, 40).numpy()
        cells: dict[str, list[float]] = {}
        parts = {name: np.zeros(40) for name in ("mrr", "r1", "loss")}
        for lang, clips in (("en", list(range(40))), ("zh", [clip for clip in range(40) if clip % 3])):
            words = [dict((row[0], row[1]) for row in source.pairs[clip])[lang] for clip in clips]
            text = model.encode_text(model.backbone.tokenize(words)).numpy()
            logits = float(model.backbone.logit_scale.exp()) * video[clips] @ text.T
            losses: list[float] = []
            for places in np.array_split(np.arange(len(clips)), math.ceil(len(clips) / LOSS_CHUNK)):
                block = logits[np.ix_(places, places)].astype(np.float64)
                for i in range(len(places)):
                    rows, columns = (np.log(np.exp(b[i] - b[i, i]).sum()) for b in (block, block.T))
                    losses.append((rows + columns) / 2)
            sides = {"t2v": (text @ video.T, clips), "v2t": (video[clips] @ text.T, list(range(len(clips))))}
            for direction, (similarity, targets) in sides.items():
                for name, values in by_hand(similarity, targets).items():
                    cells[f"{lang}_{direction}_{name}"] = values
                    parts[name][clips] += np.array(values) * 40 / len(clips) / 4
            cells[f"{lang}_loss"] = losses
            parts["loss"][clips] += np.array(losses) * 40 / len(clips) / 2

    expected = {name: float(np.mean(values)) for name, values in cells.items()}
    for name in ("mrr", "r1", "loss"):
        expected[name] = float(np.mean([value for cell, value in expected.items() if cell.endswith(f"_{name}")]))
    assert scores.numbers == pytest.approx(expected, abs=1e-5) and 0 < expected["mrr"] < 1
    for name, part_N in scores.per_clip.items():
        assert part_N.dtype == torch.float64 and part_N.numpy() == pytest.approx(parts[name], abs=1e-4)


def test_clips_that_share_a_text_are_no_negatives_of_the_loss() -> None:
    """Two clips with one text and one vector each: alone with each other they cost nothing."""

    class Model:
        backbone = SimpleNamespace(device=torch.device("cpu"), logit_scale=torch.tensor(3.0))
        temporal = SimpleNamespace(training=False, eval=lambda: None, train=lambda mode: None)

        def clip_units(self, levels: Tensor, mask: Tensor, captions: None, needs: tuple[()]) -> ClipUnits:
            return ClipUnits(levels[:, 0], levels, mask)

        def encode_text(self, tokens: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(tokens[:, 0], 2).float()

    class Frames:
        reads_ahead = 1

        def give_back(self, batch: Tensor) -> None:
            pass

        def batch(self, clips: np.ndarray) -> tuple[Tensor, Tensor]:
            return torch.eye(2)[clips][:, None], torch.ones(len(clips), 1, dtype=torch.bool)

        def levels(self, model: object, inputs: Tensor, mask: Tensor) -> Tensor:
            return inputs

    class Table:
        langs, texts, tokens = ("en",), Strings.of(["same", "same"]), Tokens(np.zeros((2, 1), np.int32), 0)

        def queries_of(self, lang: str) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(2), np.arange(2)

        def owners(self, clips: np.ndarray) -> dict[str, list[int]]:
            return {"same": [0, 1]}

    numbers = validate(cast(Any, Model()), cast(Any, Split(2, cast(Any, Frames()), cast(Any, Table())))).numbers
    assert numbers["loss"] == 0 and numbers["r1"] == 0.5


def test_an_interaction_is_validated_by_its_own_scores(tiny_dir: Any) -> None:
    """With start gate its scores are the cosines; with start open they are those of a loop over all pairs."""
    backbone = load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
    source = ordered(9, 3)
    gated = VideoCLIP(backbone, MeanConfig(), interaction=MugConfig())
    cosines, scores = (validate(gated, split_of(source, gated), way).numbers for way in (False, True))
    compared = [
        name for name in scores if name.endswith(("loss", "t2v_mrr", "t2v_r1"))
    ]  # equal texts tie, but for rounding
    assert [scores[name] for name in compared] == pytest.approx([cosines[name] for name in compared], abs=1e-6)
    opened = VideoCLIP(backbone, MeanConfig(), interaction=MugConfig(start="open"))
    assert opened.interaction is not None
    split = split_of(source, opened)
    numbers = validate(opened, split, by_interaction=True).numbers
    with torch.no_grad():
        units = encode_units(opened, split.frames, 9, None, opened.interaction.needs)
        clips, rows = split.texts.queries_of("en")
        texts = opened.text_units(split.texts.tokens.rows(rows), opened.interaction.needs)
        pairs = [(text, clip) for text in range(9) for clip in range(9)]
        text_N, clip_N = (torch.tensor(column) for column in zip(*pairs, strict=True))
        score_99 = score_pairs(opened.interaction, select(texts, text_N), select(units, clip_N)).reshape(9, 9)
    by_loop = by_hand(score_99.numpy(), clips.tolist())
    ranks, ties = ranks_by_score(score_99, torch.from_numpy(clips))
    if int(ties.max()) == 1:
        assert numbers["en_t2v_mrr"] == pytest.approx(np.mean(by_loop["mrr"]), abs=1e-9)
    assert numbers["en_t2v_mrr"] == pytest.approx(float(expected_reciprocal_ranks(ranks, ties).mean()), abs=1e-9)
