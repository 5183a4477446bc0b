"""Harmonisation: conflict and projection against autograd and loops, chunks against the batch, the file of conflict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.clip_captions import captioned_clips, clip_caption_loss
from m2raap.adapt.clip_sound import clip_sound_loss
from m2raap.adapt.conflict import auc
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.harmonize import (
    add_projected,
    agreement_of,
    kept_pairs,
    project,
    pull_at_vector,
    realigned,
    text_agreement,
)
from m2raap.adapt.loop import adapt
from m2raap.adapt.modalities import NO_ROW, open_modalities
from m2raap.adapt.objective import BatchTexts, Features
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.prepare import prepare
from m2raap.adapt.sense_towers import SHAPES
from m2raap.adapt.sources import ListSource
from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.test_gradcache import gradients_of, harmonised, opened, same, world
from tests.adapt.world import ordered


def units(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_the_pull_of_a_pair_is_the_gradient_of_its_row_by_autograd() -> None:
    raw, texts = units(5, 8, seed=1) * 3, units(5, 8, seed=2)
    twins = torch.eye(5, dtype=torch.bool)
    twins[0, 3] = twins[3, 0] = True
    for row in range(5):
        vector = raw[row].clone().requires_grad_()
        logits = 7.0 * texts @ F.normalize(vector, dim=0)  # the normalisation keeps the gradient on the tangent space
        logits = logits.masked_fill(twins[row] & (torch.arange(5) != row), float("-inf"))
        F.cross_entropy(logits, torch.tensor(row)).backward()
        pull = pull_at_vector(F.normalize(raw, dim=-1), texts, twins, 7.0)[row]
        assert vector.grad is not None
        torch.testing.assert_close(pull, (vector.grad * 3 / 7.0).float(), atol=1e-6, rtol=1e-5)


def test_agreement_is_a_cosine_and_unknown_where_a_gradient_vanishes() -> None:
    pull, other = torch.tensor([[1.0, 0], [1, 0], [0, 0]]), torch.tensor([[2.0, 0], [-1, 1], [1, 1]])
    agreement = agreement_of(pull, other)
    torch.testing.assert_close(agreement[:2], torch.tensor([1.0, -(0.5**0.5)]))
    assert agreement[2].isnan()


def test_texts_at_or_below_gamma_are_left_out_and_one_stays() -> None:
    agreement = torch.tensor([[0.5, -0.2], [float("nan"), 0.1]])
    assert kept_pairs(agreement, 0.1).tolist() == [[True, False], [True, False]]
    assert kept_pairs(agreement[:1], 0.9).tolist() == [[True, False]]
    assert kept_pairs(torch.tensor([[float("nan")]]), 0.9).tolist() == [[True]]


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_projection_leaves_no_conflict_of_two_and_nothing_where_there_was_none(seed: int, count: int) -> None:
    gradients = [units(6, 3, seed=seed + place) for place in range(count)]
    projected = project(gradients)
    for row in range(6):
        for place in range(count):
            gradient = gradients[place][row].clone()
            for other in (g[row] for k, g in enumerate(gradients) if k != place):
                if (along := float(gradient @ other)) < 0:
                    gradient = gradient - along / float(other @ other) * other
            torch.testing.assert_close(projected[place][row], gradient)
    first, second = project(gradients[:2])
    torch.testing.assert_close((first * gradients[1]).sum(-1), (gradients[0] * gradients[1]).sum(-1).clamp(min=0))
    torch.testing.assert_close((second * gradients[0]).sum(-1), (gradients[0] * gradients[1]).sum(-1).clamp(min=0))


def test_vectors_that_are_realigned_have_the_sum_of_projected_gradients() -> None:
    vectors = units(4, 3, seed=0).requires_grad_()
    weights = [units(4, 3, seed=seed) for seed in (1, 2)]
    copies = realigned(vectors, ["plain", "direction", "clip_caption"], 2)
    assert {name: len(of_term) for name, of_term in copies.items()} == {"plain": 2, "clip_caption": 1}
    losses = [
        (copy * weight).sum() for copy, weight in zip(copies["plain"], weights, strict=True)
    ]  # the third has none
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(vectors.grad, sum(project(weights)))


def test_weights_are_projected_as_one_vector() -> None:
    gradients = [[torch.tensor([1.0, 0.0]), None, torch.tensor([[1.0]])], [torch.tensor([-1.0, 1.0]), None, None]]
    total = add_projected(gradients)
    flat = project([torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-1.0, 1.0, 0.0])])
    assert total[1] is None
    torch.testing.assert_close(torch.cat([total[0], total[2].flatten()]), flat[0] + flat[1])  # type: ignore[union-attr, list-item]


def test_clip_caption_loss_equals_its_twin() -> None:
    video, captions = units(4, 8, seed=1).float(), units(4, 2, 8, seed=2).float()
    numbers = np.array([[0, 1], [1, 0], [2, -1], [-1, -1]])
    captions[torch.from_numpy(numbers < 0)] = 0
    means = F.normalize(captions.sum(1), dim=-1)
    expected = []
    for i in range(3):
        others = [j for j in range(3) if j == i or {i, j} != {0, 1}]  # the first two have the same captions
        rows, columns = ([float(10 * video[a] @ means[b]) for a, b in pairs] for pairs in (
            [(i, j) for j in others], [(j, i) for j in others]
        ))  # fmt: skip
        matched = float(10 * video[i] @ means[i])
        expected.append((np.log(np.exp(rows).sum()) + np.log(np.exp(columns).sum()) - 2 * matched) / 2)
    loss = clip_caption_loss(video, captions, numbers, 10.0)
    torch.testing.assert_close(loss, torch.tensor([*expected, 0.0]).float() * 4 / 3)
    assert clip_caption_loss(video, captions, np.full((4, 2), -1), 10.0).tolist() == [0.0] * 4
    assert captioned_clips(numbers, torch.device("cpu"))[0].tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_auc_counts_pairs(higher: list[int], lower: list[int]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in higher for b in lower]
    assert auc(np.array(higher), np.array(lower)) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("mode", ["realign", "both"])
def test_chunks_have_the_gradients_of_the_batch(mode: str, tiny_dir: Path, tmp_path: Path) -> None:
    whole = gradients_of(opened(harmonised(tiny_dir, mode), tmp_path / "whole"))
    same(gradients_of(opened(harmonised(tiny_dir, mode, micro_batch=3), tmp_path / "chunks")), whole)
    plain = gradients_of(opened(harmonised(tiny_dir, mode, harmonize=None), tmp_path / "plain"))
    with pytest.raises(AssertionError):
        same(whole, plain)


def with_sound(source: ListSource, folder: Path) -> ListSource:
    """The source with sound in all clips but the last two."""
    folder.mkdir(exist_ok=True)
    num = source.num_clips
    db = np.random.default_rng(5).uniform(-80, 0, (num, *SHAPES["sound"])).astype(np.float16)
    np.save(folder / "sound.npy", db)
    np.save(folder / "sound-rows.npy", np.where(np.arange(num) < num - 2, np.arange(num), NO_ROW))
    source.senses = open_modalities(folder, ["sound"])  # type: ignore[attr-defined]  # as the stage gives it to a ViewSource
    return source


SOUND = {"plain": 1.0, "clip_sound": 0.5}


def test_clip_sound_loss_equals_its_twin() -> None:
    video_BE, sound_ME = units(6, 8, seed=1).float(), units(4, 8, seed=2).float()
    clips = [0, 2, 3, 5]
    losses = [
        -(10 * video_BE[clip] @ sound_ME.T).log_softmax(0)[place] / 2
        - (10 * video_BE[clips] @ sound_ME[place]).log_softmax(0)[place] / 2
        for place, clip in enumerate(clips)
    ]
    rows_B = clip_sound_loss(video_BE, torch.tensor(clips), sound_ME, 10.0)
    torch.testing.assert_close(rows_B.mean(), torch.stack(losses).mean())
    assert rows_B[1] == rows_B[4] == 0
    assert float(clip_sound_loss(video_BE, torch.zeros(0, dtype=torch.long), sound_ME[:0], 10.0).sum()) == 0


@pytest.mark.parametrize("loss", [SOUND, SOUND | {"clip_caption": 1.0}], ids=["sound", "sound and captions"])
def test_texts_are_compared_with_sound_too_and_chunks_have_the_gradients_of_the_batch(
    loss: dict[str, float], tiny_dir: Path, tmp_path: Path
) -> None:
    def gradients(name: str, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
        cfg = harmonised(tiny_dir, "both", loss=loss, **changes)
        run = prepare(
            cfg,
            with_sound(world(), tmp_path / "senses"),
            None,
            tmp_path / name,
            lambda *_: None,
            DistContext(),
            Decoding(),
        )
        return gradients_of(run)

    whole = gradients("whole")
    same(gradients("chunks", micro_batch=3), whole)
    assert float(whole[1]["modules.sound_tower.layers.0.weight"].abs().max()) > 0, "the tower learns"
    with pytest.raises(AssertionError):
        same(gradients("plain", harmonize=None), whole)


def test_agreement_is_that_with_the_sum_of_the_other_gradients() -> None:
    """Of captions and sound by their weights; a clip with neither has none."""
    num, texts = 5, [["a", "b", "c", "d", "e"]]
    owners = {text: [place] for place, text in enumerate(texts[0])}
    caption_BT = np.array([[0], [1], [-1], [2], [-1]])
    video_BE, text_BE, caption_BE, sound_ME = (
        units(rows, 6, seed=seed).float() for rows, seed in ((num, 1), (num, 2), (num, 3), (3, 4))
    )
    caption_BE[[2, 4]] = 0
    sounding = torch.tensor([0, 2, 3])
    features = Features(
        torch.ones(num, 1, dtype=torch.bool), video_BE, text_BE[:, None], caption_BTE=caption_BE[:, None]
    )
    weights = {"plain": 1.0, "clip_caption": 0.5, "clip_sound": 2.0}
    agreement_BK = text_agreement(features, BatchTexts(texts, owners, caption_BT), weights, 4.0, (sounding, sound_ME))
    own = pull_at_vector(video_BE, text_BE, torch.eye(num, dtype=torch.bool), 4.0)
    captioned = [0, 1, 3]
    other = torch.zeros(num, 6)
    other[captioned] += 0.5 * pull_at_vector(
        video_BE[captioned], caption_BE[captioned], torch.eye(3, dtype=torch.bool), 4.0
    )
    other[sounding] += 2.0 * pull_at_vector(video_BE[sounding], sound_ME, torch.eye(3, dtype=torch.bool), 4.0)
    torch.testing.assert_close(agreement_BK[:4, 0], F.cosine_similarity(own, other, dim=1)[:4])
    assert bool(agreement_BK[4].isnan().all())


def test_the_sound_tower_is_resumed_and_leaves(tiny_dir: Path, tmp_path: Path) -> None:
    cfg = harmonised(tiny_dir, "curriculum", steps=4, loss=SOUND)
    for name, stop_after in (("whole", None), ("killed", 3), ("killed", None)):
        source = with_sound(ordered(9, 0), tmp_path / "senses")
        result = adapt(cfg, source, ordered(3, 1), tmp_path / name, stop_after=stop_after)
    for file in ("train.jsonl", PAIR_SIGNALS, "model/model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    assert not any("sound" in name for name in VideoCLIP.load(result.model_dir).state_dict())
    silent = {f"clip{clip}.{text}" for clip in (7, 8) for text in (0, 1)}
    scored = set(pq.read_table(tmp_path / "whole" / PAIR_SIGNALS)["text_id"].to_pylist())
    assert scored == {f"clip{clip}.{text}" for clip in range(9) for text in (0, 1)} - silent


def test_over_all_weights_the_gradients_are_those_of_two_losses_projected(tiny_dir: Path, tmp_path: Path) -> None:
    cfg = harmonised(tiny_dir, "realign", harmonize={"mode": "realign", "level": "weights"}, micro_batch=4)
    total = gradients_of(opened(cfg, tmp_path / "both"))[1]
    losses = [{"plain": 1.0, "direction": 0.5}, {"plain": 0.0, "clip_caption": 0.5}]
    parts = [
        gradients_of(opened(harmonised(tiny_dir, "realign", harmonize=None, loss=loss), tmp_path / str(number)))[1]
        for number, loss in enumerate(losses)
    ]
    names = sorted(total)
    expected = add_projected([[part.get(name) for name in names] for part in parts])
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(total[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_wrong_text_is_in_conflict_and_a_killed_run_ends_alike(tiny_dir: Path, tmp_path: Path) -> None:
    source = ordered(9, 0)
    wrong = {"clip2.0", "clip2.1"}
    source.pairs[2] = source.pairs[5]
    (tmp_path / "truth.parquet").parent.mkdir(exist_ok=True)
    import pyarrow as pa

    pq.write_table(pa.table({"id": sorted(wrong)}), tmp_path / "truth.parquet")
    cfg = harmonised(
        tiny_dir,
        "curriculum",
        steps=4,
        harmonize={"truth": str(tmp_path / "truth.parquet")},
        loss={"clip_caption": 1.0},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert adapt(cfg, source, ordered(3, 1), whole).finished
    assert not adapt(cfg, source, ordered(3, 1), killed, stop_after=3).finished
    assert adapt(cfg, source, ordered(3, 1), killed).finished
    for file in ("train.jsonl", PAIR_SIGNALS):
        assert (whole / file).read_bytes() == (killed / file).read_bytes()
    table = pq.read_table(whole / PAIR_SIGNALS).to_pydict()
    assert table["text_id"] == sorted(f"clip{clip}.{text}" for clip in range(9) for text in (0, 1))
    assert all(-1 <= value <= 1 for value in table["conflict"]) and min(table["conflict_draws"]) >= 1
    lines = [json.loads(line) for line in (whole / "train.jsonl").read_text().splitlines()]
    steps = [line["harmonize"] for line in lines if "loss" in line]
    assert all(set(step) == {"in_conflict", "kept"} for step in steps)
    assert [line["conflict_auc"] for line in lines if "conflict_auc" in line][-1].keys() == {"en", "zh"}


def test_settings_that_cannot_work_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    from m2raap.adapt.config import AdaptConfig

    with pytest.raises(UsageError, match="clip_caption"):
        build(AdaptConfig, {"harmonize": {}}, "r.yaml")
    with pytest.raises(UsageError, match="cosines"):
        build(AdaptConfig, {"harmonize": {"gamma": [0, 2]}, "loss": {"clip_caption": 1}}, "r.yaml")
    (tmp_path / "truth.parquet").write_bytes(b"no table")
    cfg = harmonised(tiny_dir, "curriculum", harmonize={"truth": str(tmp_path / "truth.parquet")})
    with pytest.raises(M2raapError, match="truth"):
        adapt(cfg, world(), None, tmp_path / "run")
