"""embed: the length to which texts are cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.config import BackboneConfig, MeanConfig, MugConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages.embed import EmbedConfig, embed
from m2raap.stages.embedder import VideoClipEmbedder
from m2raap.stages.rerank import RerankConfig
from tests.stages.adapted import drawn_benchmark


@pytest.fixture(scope="module")
def clip() -> VideoCLIP:
    return VideoCLIP(load_backbone(BackboneConfig()), MeanConfig())


def test_texts_of_a_benchmark_are_cut_and_the_protocol_says_so(clip: VideoCLIP, tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    rows, scores = {}, {}
    for length in (None, 4):
        out = tmp_path / str(length)
        out.mkdir()
        embed(
            view, EmbedConfig(text_length=length, rerank=RerankConfig(interaction=MugConfig(start="open"))), clip, out
        )
        embeddings = rows[length] = Embeddings.load(out)
        scores[length] = np.load(out / "rerank.npz")["en-t2v-scores"]
        assert ("texts cut to 4 tokens" in embeddings.made_with.preprocess) is (length == 4)
    with torch.no_grad():
        cut = clip.encode_text(clip.backbone.tokenize(list(rows[4].texts), 4)).numpy()
    np.testing.assert_allclose(rows[4].text_TE, cut, atol=1e-6)
    assert np.abs(rows[4].text_TE - rows[None].text_TE).max() > 0.01
    assert np.abs(scores[4] - scores[None]).max() > 1e-3, "Mug reads the tokens of the same texts"
    assert np.array_equal(rows[4].video_VE, rows[None].video_VE)


def test_a_length_that_the_model_has_not_is_named(clip: VideoCLIP, tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    with pytest.raises(M2raapError, match=rf"embed\.text_length is 999.*{clip.backbone.context_length} tokens"):
        embed(view, EmbedConfig(text_length=999), clip, tmp_path)
    with pytest.raises(M2raapError, match=r"embed\.text_length=null"):
        embed(view, EmbedConfig(text_length=4), VideoClipEmbedder(clip), tmp_path)
