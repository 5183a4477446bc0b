"""Encoding for a GPU, whose blocks hold rows of several clips: `cpu:0` is a device on which that code runs here."""

from __future__ import annotations

import numpy as np
import pytest

from m2raap.core import engine
from m2raap.curate import encode
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone
from m2raap.search import clip_vectors
from tests.stages.pictures import draw

CLIPS = [[draw("red"), draw("blue")], [draw("green")], [], [draw("yellow"), draw("red", "square"), draw("blue")]]
TEXTS = [["a red circle", "a blue circle"], [], ["一个红色圆形"]]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig())


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, module) -> None:
    monkeypatch.setattr(module, "device", lambda: "cpu:0")
    monkeypatch.setattr(module, "decoder_threads", lambda: 2)
    monkeypatch.setattr("m2raap.models.batches.PICTURES_ON_GPU", 16)
    monkeypatch.setattr("m2raap.models.batches.TEXTS_ON_GPU", 16)


def test_large_blocks_give_each_clip_its_vectors(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    small = encode.Encoder(backbone)
    as_on_a_gpu(monkeypatch, encode)
    large = encode.Encoder(backbone)
    for expected, vectors in (
        (small.images_of(CLIPS), large.images_of(CLIPS)),
        (small.texts_of(TEXTS), large.texts_of(TEXTS)),
    ):
        assert len(vectors) == len(expected)
        for one, other in zip(expected, vectors, strict=True):
            assert len(one) == len(other)
            np.testing.assert_allclose(one, other.reshape(one.shape), atol=1e-6)
    assert large.images_of([]) == [] and small.images_of([]) == []


def test_a_vector_does_not_depend_on_the_other_clips(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    as_on_a_gpu(monkeypatch, encode)
    encoder = encode.Encoder(backbone)
    alone = encoder.images(CLIPS[0])
    for others in ([CLIPS[3]], CLIPS[1:], [CLIPS[3]] * 7):
        assert np.array_equal(encoder.images_of([*others, CLIPS[0]])[-1], alone)


def test_an_index_is_encoded_in_large_blocks_and_a_query_in_small_ones(monkeypatch: pytest.MonkeyPatch):
    clips = [clip for clip in CLIPS if clip] * 4
    expected = clip_vectors.ClipEncoder(BackboneConfig()).clips(clips)
    as_on_a_gpu(monkeypatch, clip_vectors)
    sizes = {}
    for for_queries in (False, True):
        encoder = clip_vectors.ClipEncoder(BackboneConfig(), for_queries=for_queries)
        for (vector_E, frames_KE), (expected_E, expected_KE) in zip(encoder.clips(clips), expected, strict=True):
            np.testing.assert_allclose(vector_E, expected_E, atol=1e-6)
            np.testing.assert_allclose(frames_KE, expected_KE, atol=1e-6)
        sizes[for_queries] = encoder._batches_of(1).size
    assert sizes == {False: 16, True: 8}


def test_threads_decode_only_for_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "available_cores", lambda: 16)
    assert engine.decoder_threads() == 0
    monkeypatch.setattr(engine, "device", lambda: "cuda:0")
    assert engine.decoder_threads() == 16
    monkeypatch.setenv(engine.WORKER, "1/4")
    assert engine.decoder_threads() == 4
