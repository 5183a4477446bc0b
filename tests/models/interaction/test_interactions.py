"""Every interaction against a twin that takes one pair at a time, in numpy, by the formulas of its docstring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core import extension
from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.config import (
    AnyInteraction,
    CaptionGuidedMugConfig,
    ExtensionInteractionConfig,
    FineConfig,
    MugConfig,
)
from m2raap.models.interaction.fine import fine, phrase_vectors
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.score import score_matrix, score_pairs
from m2raap.models.interaction.units import ClipUnits, TextUnits, select, tensors_of
from tests.models.interaction.examples import ALL, clips_of, label, masks, moved, texts_of, units

every = pytest.mark.parametrize("cfg", ALL, ids=label)
Row = dict[str, np.ndarray]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def rows_of(units_: TextUnits | ClipUnits, row: int) -> Row:
    """The units of a text, or a clip, without padding, in float64."""
    arrays = {name: value[row].detach().numpy() for name, value in tensors_of(units_).items()}
    for mask, masked in (
        ("token_mask_AL", ["tokens_ALE"]),
        ("phrase_mask_AX", ["phrases_AXE"]),
        ("mask_BT", ["frames_BTE", "captions_BTE", "captioned_BT", "patches_BTPE"]),
    ):
        for name in masked:
            if name in arrays:
                arrays[name] = arrays[name][arrays[mask]]
    return {name: value.astype(np.float64 if value.dtype != bool else bool) for name, value in arrays.items()}


def mug_of(similar: np.ndarray, cfg: Any) -> float:
    b = cfg.inverse_temperature
    p = np.array([softmax(b * row) @ row for row in similar])
    q = np.array([softmax(b * column) @ column for column in similar.T])
    if cfg.form == "full":
        return float(softmax(b * p) @ similar @ softmax(b * q))
    return float((softmax(b * p) @ p + softmax(b * q) @ q) / 2)


def guided(text: Row, clip: Row, cfg: CaptionGuidedMugConfig, module: Any) -> float:
    t, num_frames = text["pooled_AE"], len(clip["frames_BTE"])
    total = np.zeros(num_frames)
    weight = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    captioned = clip.get("captioned_BT", np.zeros(num_frames, bool))

    def compared(part: str, vectors: np.ndarray) -> np.ndarray:
        if cfg.weights == "cross_attention":
            query = weight[f"query.{part}.weight"] @ t + weight[f"query.{part}.bias"]
            return np.array([query @ (weight[f"key.{part}.weight"] @ vector) for vector in vectors])
        return weight["inter_gate" if part == "frames" else "intra_gate"] * np.array([t @ vector for vector in vectors])

    if "frames" in cfg.guide:
        total += compared("frames", clip["frames_BTE"])
    if "captions" in cfg.guide and captioned.any():
        intra = compared("captions", clip["captions_BTE"])
        intra[~captioned] = intra[captioned].mean()
        total += intra
    w = softmax(total / cfg.tau_w)
    enhanced = []
    for i in range(num_frames):
        frame = clip["frames_BTE"][i] * (1 + weight["weight_gate"] * (num_frames * w[i] - 1))
        if cfg.add_captions and captioned[i]:
            frame = frame + weight["add_gate"] * clip["captions_BTE"][i]
        enhanced.append(frame)
    return mug_of(text["tokens_ALE"] @ np.array(enhanced).T, cfg)


def fine_of(text: Row, clip: Row, cfg: FineConfig) -> float:
    parts = text["tokens_ALE" if cfg.text_units == "tokens" else "phrases_AXE"]
    of_clip = clip["frames_BTE"] if cfg.clip_units == "frames" else np.concatenate(list(clip["patches_BTPE"]))
    similar, tau = parts @ of_clip.T, cfg.tau_a
    if cfg.form == "fg":
        return float(softmax(similar.ravel() / tau) @ similar.ravel())
    if cfg.form == "milnce":
        return float(tau * np.log(np.exp(similar / tau).mean()))
    if cfg.form == "filip":
        return float((similar.max(1).mean() + similar.max(0).mean()) / 2)
    of_part = np.array([softmax(row / tau) @ row for row in similar])
    return float(softmax(of_part / tau) @ of_part)


def twin(text: Row, clip: Row, cfg: AnyInteraction, module: Any) -> float:
    if isinstance(cfg, MugConfig):
        inner = mug_of(text["tokens_ALE"] @ clip["frames_BTE"].T, cfg)
    elif isinstance(cfg, CaptionGuidedMugConfig):
        inner = guided(text, clip, cfg, module)
    else:
        assert isinstance(cfg, FineConfig)
        inner = fine_of(text, clip, cfg)
    cosine = float(text["pooled_AE"] @ clip["pooled_BE"])
    return inner if cfg.start == "open" else cosine + float(module.gate.detach()) * (inner - cosine)


@every
@pytest.mark.parametrize("captions", [True, False])
def test_equals_the_twin(cfg: AnyInteraction, captions: bool) -> None:
    for seed in range(4):
        texts, clips, module = texts_of(3, seed), clips_of(4, seed + 50, captions=captions), moved(cfg, seed)
        with torch.no_grad():
            scores = score_matrix(module, texts, clips)
        expected = [[twin(rows_of(texts, a), rows_of(clips, b), cfg, module) for b in range(4)] for a in range(3)]
        np.testing.assert_allclose(scores.numpy(), expected, atol=2e-5, rtol=1e-5)


@every
def test_pairs_are_the_diagonal(cfg: AnyInteraction) -> None:
    texts, clips, module = texts_of(4, 1), clips_of(4, 2), moved(cfg)
    pairs = score_pairs(module, texts, clips)
    torch.testing.assert_close(pairs, score_matrix(module, texts, clips).diagonal(), atol=1e-5, rtol=1e-5)


@every
def test_a_new_interaction_with_a_gate_is_the_cosine(cfg: AnyInteraction) -> None:
    texts, clips = texts_of(4, 1), clips_of(5, 2)
    module = build_interaction(cfg.model_copy(update={"start": "gate"}), 8)
    cosine = texts.pooled_AE @ clips.pooled_BE.T
    torch.testing.assert_close(score_matrix(module, texts, clips), cosine, atol=1e-6, rtol=0)
    grown = build_interaction(cfg.model_copy(update={"start": "gate"}), 8)
    score_matrix(grown, texts, clips).pow(2).sum().backward()
    assert grown.gate.grad.abs() > 1e-3  # the way out of the start


@pytest.mark.parametrize("weights", ["softmax", "cross_attention"])
def test_the_start_of_caption_guided_mug_is_mug_and_no_saddle(weights: str) -> None:
    texts, clips = texts_of(4, 1), clips_of(5, 2)
    cfg = CaptionGuidedMugConfig(weights=weights, start="open", add_captions=True)  # type: ignore[arg-type]
    module, mug = build_interaction(cfg, 8), build_interaction(MugConfig(start="open"), 8)
    scores = score_matrix(module, texts, clips)
    torch.testing.assert_close(scores, score_matrix(mug, texts, clips), atol=1e-6, rtol=0)
    scores.pow(2).sum().backward()
    first = (
        ("query.frames.weight", "query.captions.weight")
        if weights == "cross_attention"
        else ("inter_gate", "intra_gate")
    )
    for name in (*first, "add_gate"):
        assert dict(module.named_parameters())[name].grad.abs().max() > 1e-4, name


@every
def test_padding_never_takes_part(cfg: AnyInteraction) -> None:
    texts, clips, module = texts_of(3, 5), clips_of(3, 7), moved(cfg)
    expected = score_matrix(module, texts, clips)
    assert texts.tokens_ALE is not None and texts.token_mask_AL is not None and clips.patches_BTPE is not None
    assert texts.phrases_AXE is not None and texts.phrase_mask_AX is not None and clips.captions_BTE is not None
    texts.tokens_ALE[~texts.token_mask_AL] = 9.0
    texts.phrases_AXE[~texts.phrase_mask_AX] = 9.0
    for vectors in (clips.frames_BTE, clips.patches_BTPE, clips.captions_BTE):
        vectors[~clips.mask_BT] = -9.0
    clips.captions_BTE[~clips.captioned_BT] = 7.0  # type: ignore[operator]
    torch.testing.assert_close(score_matrix(module, texts, clips), expected, atol=1e-5, rtol=1e-5)


@every
@pytest.mark.parametrize("block_bytes", [1, 4 * 4 * 60])  # a pair at a time; some clips, or some texts
def test_blocks_change_neither_scores_nor_gradients(cfg: AnyInteraction, block_bytes: int) -> None:
    results = []
    for size in (block_bytes, 2**30):
        texts, clips, module = texts_of(5, 1), clips_of(6, 2), moved(cfg)
        vectors = [v.requires_grad_() for u in (texts, clips) for v in tensors_of(u).values() if v.is_floating_point()]
        scores = score_matrix(module, texts, clips, size)
        (scores * torch.arange(30).reshape(5, 6)).sum().backward()
        weights = list(module.parameters())
        results.append([scores.detach(), *(v.grad for v in (*vectors, *weights))])
    for some, whole in zip(*results, strict=True):
        assert (some is None) == (whole is None)
        if some is not None:
            assert bool(some.isfinite().all())
            torch.testing.assert_close(some, whole, atol=1e-4, rtol=1e-4)


@every
def test_gradients_are_those_of_finite_differences(cfg: AnyInteraction) -> None:
    """Also where padding and frames without captions take part."""
    texts, clips, module = texts_of(2, 3), clips_of(3, 4), moved(cfg).double()
    from m2raap.models.interaction.pairs import Pairs

    def score(frames: torch.Tensor, tokens: torch.Tensor, phrases: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        one = replace(texts, pooled_AE=texts.pooled_AE.double(), tokens_ALE=tokens, phrases_AXE=phrases)
        other = replace(
            clips,
            pooled_BE=clips.pooled_BE.double(),
            frames_BTE=frames,
            patches_BTPE=patches,
            captions_BTE=clips.captions_BTE.double(),  # type: ignore[union-attr]
        )
        return module(Pairs(one, other, crossed=True))

    inputs = (clips.frames_BTE, texts.tokens_ALE, texts.phrases_AXE, clips.patches_BTPE)
    leaves = [value.double().requires_grad_() for value in inputs if value is not None]
    assert torch.autograd.gradcheck(score, leaves, atol=1e-5, rtol=1e-3, fast_mode=True)


def test_captions_get_no_gradient() -> None:
    texts, clips, module = texts_of(3, 1), clips_of(3, 2), moved(CaptionGuidedMugConfig(add_captions=True))
    assert clips.captions_BTE is not None
    clips.captions_BTE.requires_grad_()
    clips.frames_BTE.requires_grad_()
    score_matrix(module, texts, clips).sum().backward()
    assert clips.captions_BTE.grad is None and clips.frames_BTE.grad is not None


def test_half_precision_is_scored_in_fp32() -> None:
    texts, clips, module = texts_of(3, 1), clips_of(3, 2), moved(MugConfig())
    half_texts = replace(texts, **{n: v.bfloat16() for n, v in tensors_of(texts).items() if v.is_floating_point()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score_matrix(module, half_texts, clips)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, score_matrix(module, texts, clips), atol=0.02, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["fg", "fg2", "milnce"]))
def test_fine_becomes_the_mean_and_knows_no_order(seed: int, form: str) -> None:
    similar = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)).double()
    everything = torch.ones(4, 5, dtype=torch.bool)
    torch.testing.assert_close(fine(similar, everything, form, 1e5), similar.mean(), atol=1e-4, rtol=0)  # type: ignore[arg-type]
    other = similar[torch.randperm(4)][:, torch.randperm(5)]
    torch.testing.assert_close(fine(similar, everything, form, 0.1), fine(other, everything, form, 0.1))  # type: ignore[arg-type]
    top = fine(similar, everything, form, 1e-3)  # type: ignore[arg-type]
    torch.testing.assert_close(top, similar.max(), atol=0.01, rtol=0)


def test_phrases_are_unit_means_of_their_tokens() -> None:
    tokens = units(2, 6, 8, seed=0)
    spans = torch.tensor([[[1, 3], [4, 5]], [[0, 6], [0, 0]]])
    phrases, mask = phrase_vectors(tokens, spans)
    expected = [tokens[0, 1:3].mean(0), tokens[0, 4], tokens[1].mean(0)]
    for phrase, mean in zip(phrases[mask], expected, strict=True):
        torch.testing.assert_close(phrase, mean / mean.norm())
    assert mask.tolist() == [[True, True], [True, False]]


def test_selected_rows() -> None:
    clips = clips_of(4, 1)
    some = select(clips, torch.tensor([2, 0]))
    assert torch.equal(some.frames_BTE, clips.frames_BTE[[2, 0]]) and some.captioned_BT is not None
    assert select(clips_of(4, 1, captions=False), slice(1, 3)).captions_BTE is None


def test_a_clip_without_frames_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="without frames"):
        score_matrix(moved(MugConfig()), texts_of(1, 1), replace(clips_of(2, 1), mask_BT=masks(2, 4, 0) & False))


CODE = """
import torch
from pydantic import Field
from m2raap.core.config import Config

class Mean(torch.nn.Module):
    class Config(Config):
        power: int = Field(default=1, description="d")
    needs = ("tokens",)
    def __init__(self, cfg, embed_dim):
        super().__init__()
        self.out = torch.nn.Linear(embed_dim, embed_dim)
        self.power = cfg.power
    def forward(self, pairs):
        return pairs.with_text(self.out(pairs.clips.frames_BTE)).mean(-1) ** self.power
    def gates(self):
        return {"out": 1.0}

class TooLong(Mean):
    def forward(self, pairs):
        return super().forward(pairs)[None]
    def gates(self):
        return []

class Wants(Mean):
    needs = ("sound",)

def function(cfg, embed_dim):
    return None
"""


def test_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_scores.py").write_text(CODE)
    texts, clips = texts_of(3, 1), clips_of(4, 2)

    def build(name: str, **options: object) -> torch.nn.Module:
        return build_interaction(ExtensionInteractionConfig(name=f"python:mine_scores:{name}", options=options), 8)

    with pytest.raises(UsageError, match=r"adapt.interaction.name: python:mine_scores:Mean.*--allow-code"):
        build("Mean")
    with extension.code_allowed(True):
        module = build("Mean", power=3)
        assert score_matrix(module, texts, clips).shape == (3, 4) and score_pairs(
            module, texts, select(clips, slice(3))
        ).shape == (3,)
        assert module.gates() == {"out": 1.0} and len(list(module.parameters())) == 2
        with pytest.raises(UsageError, match=r"adapt.interaction.options.*'powr'.*'power'"):
            build("Mean", powr=3)
        with pytest.raises(M2raapError, match=r"TooLong returns .*\(1, 3, 4\).*\(3, 4\).*mine_scores.py"):
            score_matrix(build("TooLong"), texts, clips)
        with pytest.raises(M2raapError, match=r"gates\(\) of python:mine_scores:TooLong.*mine_scores.py"):
            build("TooLong").gates()
        with pytest.raises(UsageError, match=r"Wants needs 'sound', and there are tokens, phrases, captions, patches"):
            build("Wants")
        with pytest.raises(UsageError, match="function is no class of torch.nn.Module"):
            build("function")
