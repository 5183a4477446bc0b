"""A model of ours runs inside mteb, and mteb's encoders run under our metrics; both find what `m2raap evaluate` finds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.core.view import View, open_view
from m2raap.interop.external import pictures
from m2raap.interop.mteb import Encoder, MtebEmbedder, StoredFrames
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import CaptionedFrames, ClipFrame, VideoClipEmbedder, load_model
from m2raap.stages.evaluate import read_ranks
from m2raap.video.clip import KeyframeConfig
from tests.interop.conftest import FRAMES
from tests.stages.pictures import draw

# mteb takes seconds to import, and pytest imports every test file in every process: the tests import it themselves.
pytestmark = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is an extra: pip install 'm2raap[mteb]'")


@pytest.fixture(scope="module")
def model():
    return load_model(BackboneConfig())


def metadata(name: str, category: str, modalities: list[str]) -> Any:
    import mteb

    return mteb.TaskMetadata(
        name=name, description="drawn clips", dataset={"path": "none", "revision": "1"}, type="Any2AnyRetrieval",
        category=category, modalities=modalities, eval_langs=["eng-Latn"], main_score="ndcg_at_10",
    )  # fmt: skip


def task_of(view: View, lang: str, category: str, damaged: str | None = None) -> Any:
    """The benchmark's files and texts as a task of mteb, either way round; `damaged` is a clip whose file is cut short."""
    from datasets import Dataset, Features, Value, Video
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    clips = sorted(view.corpus.all_rows("clips"), key=lambda row: row["clip_id"])
    texts = sorted(
        (row for row in view.corpus.all_rows("texts") if row["lang"] == lang), key=lambda row: row["text_id"]
    )
    files = [{"bytes": (view.corpus.video_root / row["video"]).read_bytes(), "path": None} for row in clips]
    for row, file in zip(clips, files, strict=True):
        if row["clip_id"] == damaged:
            file["bytes"] = file["bytes"][:200]
    videos = Dataset.from_dict(
        {"id": [row["clip_id"] for row in clips], "video": files},
        features=Features({"id": Value("string"), "video": Video()}),
    )
    captions = Dataset.from_dict({"id": [row["text_id"] for row in texts], "text": [row["text"] for row in texts]})
    queries, corpus = (captions, videos) if category == "t2v" else (videos, captions)
    pairs = [(row["text_id"], row["clip_id"])[:: 1 if category == "t2v" else -1] for row in texts]

    class Drawn(AbsTaskRetrieval):
        metadata = globals()["metadata"](f"Drawn{lang}{category}", category, ["text", "video"])

        def load_data(self, **kwargs: Any) -> None:
            relevant: dict[str, dict[str, int]] = {}
            for query, document in pairs:
                relevant.setdefault(query, {})[document] = 1
            self.dataset = {"default": {"test": {
                "queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None,
            }}}  # fmt: skip
            self.data_loaded = True

    return Drawn()


def scores(encoder: Encoder, task: Any) -> dict[str, float]:
    import mteb

    return mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results[0].scores["test"][0]


@pytest.mark.parametrize(("lang", "category"), [("en", "t2v"), ("zh", "v2t")])
def test_inside_mteb_it_finds_what_m2raap_finds(
    model: Any, chain: Path, results: dict[str, Any], bench: View, lang: str, category: str
) -> None:
    measured = scores(Encoder(model, keyframes=KeyframeConfig(k=FRAMES)), task_of(bench, lang, category))
    (row,) = [r for r in results["rows"] if (r["lang"], r["direction"], r["slice"]) == (lang, category, "all")]
    ranks = [
        r["rank_pessimistic"]
        for r in read_ranks(chain / "evaluate" / "ranks.parquet")
        if r["lang"] == lang and r["direction"] == category
    ]
    assert measured["recall_at_1"] == pytest.approx(row["metrics"]["R@1"] / 100, abs=1e-5)
    assert measured["recall_at_10"] == pytest.approx(row["metrics"]["R@10"] / 100, abs=1e-5)
    # One relevant item a query: its discounted gain is 1 / log2(1 + rank).
    gains = [1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks]
    assert measured["ndcg_at_10"] == pytest.approx(np.mean(gains), abs=1e-5)


def test_a_video_that_cannot_be_decoded_is_ranked_last(model: Any, bench: View) -> None:
    lost = min(row["clip_id"] for row in bench.corpus.all_rows("clips"))
    import mteb

    encoder = Encoder(model, keyframes=KeyframeConfig(k=2, strategy="uniform"))
    task = task_of(bench, "en", "t2v", damaged=lost)
    scores(encoder, task)
    assert sum(encoder.refused.values()) == 1
    near = encoder.similarity(np.asarray([[1.0, 0.0]]), np.asarray([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]))
    assert near.tolist() == [[-1.0, -2.0, 1.0]], "behind the worst of those that were decoded"
    assert encoder.similarity_pairwise([[3.0, 0.0]], [[0.0, 0.0]]).tolist() == [-2.0]
    assert isinstance(encoder, mteb.EncoderProtocol)
    assert encoder.mteb_model_meta.experiment_kwargs == {"frames": "uniform-2"}


def loader(rows: list[dict[str, Any]]) -> Any:
    return torch.utils.data.DataLoader(
        rows, batch_size=8, collate_fn=lambda batch: {k: [r[k] for r in batch] for k in batch[0]}
    )  # type: ignore[arg-type]


def test_pictures_frames_and_decoders_are_videos_too(model: Any) -> None:
    jpegs = [draw("red", side_px=64), draw("blue", side_px=64), draw("green", side_px=64)]
    with torch.inference_mode():
        clip_vector = VideoClipEmbedder(model).videos([[ClipFrame(jpeg) for jpeg in jpegs]])[0]
        alone = VideoClipEmbedder(model).videos([[ClipFrame(jpegs[1])]])[0]
    ask = {"task_metadata": metadata("T", "t2v", ["text", "video"]), "hf_split": "test", "hf_subset": "default"}
    encoder = Encoder(model)
    for video in (pictures(jpegs), StoredFrames(jpegs)):
        assert encoder.encode(loader([{"video": video}]), **ask) == pytest.approx(clip_vector, abs=1e-6)
    still = encoder.encode(loader([{"image": picture} for picture in pictures(jpegs)]), **ask)
    assert still[1:2] == pytest.approx(alone, abs=1e-6)
    with pytest.raises(M2raapError, match="task 'T' .*text \\+ image"):
        encoder.encode(loader([{"text": "a", "image": pictures(jpegs)[0]}]), **ask)
    with pytest.raises(M2raapError, match=" int"):
        encoder.encode(loader([{"video": 3}]), **ask)
    with pytest.raises(M2raapError, match="hf://datasets/a/b.mp4: "):
        encoder.encode(loader([{"video": {"bytes": None, "path": "hf://datasets/a/b.mp4"}}]), **ask)
    with pytest.raises(M2raapError, match="1 videos .*{'missing_file': 1}"):
        encoder.encode(loader([{"video": {"bytes": None, "path": "/nowhere/b.mp4"}}]), **ask)


class Images:
    """An mteb encoder of texts and single images: `Encoder` without videos."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.asked = inner, set()
        self.mteb_model_meta = inner.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        self.asked |= set(inputs.dataset.features)
        return torch.from_numpy(self.inner.encode(inputs, **kwargs))


class Frames(Images):
    """An mteb encoder that reads videos through mteb's FramesCollator, as the encoders of its registry do."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner)
        self.mteb_model_meta = inner.mteb_model_meta

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        from mteb.models.modality_collators import FramesCollator

        if "video" in inputs.dataset.features:
            inputs.collate_fn = FramesCollator(num_frames=FRAMES)
            rows = [{"video": [to_picture(frame) for frame in video]} for batch in inputs for video in batch["video"]]
            return self.inner.encode(loader(rows), **kwargs)
        return super().encode(inputs, **kwargs)


def to_picture(frame_CHW: torch.Tensor) -> Any:
    from PIL import Image

    assert frame_CHW.dtype == torch.uint8
    return Image.fromarray(frame_CHW.permute(1, 2, 0).numpy())


def test_encoders_of_mteb_that_read_videos_are_given_stored_frames(model: Any, chain: Path) -> None:
    clips: list[CaptionedFrames] = [[ClipFrame(jpeg) for jpeg in jpegs] for jpegs in stored(chain)]
    with torch.inference_mode():
        ours = VideoClipEmbedder(model).videos(clips)[0]
        for encoder in (Encoder(model), Frames(Encoder(model))):
            assert MtebEmbedder(encoder).videos(clips)[0] == pytest.approx(ours, abs=1e-6)


@pytest.mark.parametrize(
    "sampling", [{"fps": 1.0, "max_frames": 64, "min_frames": 4}, {"fps": 0.1}, {"num_frames": 8}, {}]
)
def test_collators_of_mteb_keep_all_stored_frames_in_order(sampling: dict[str, Any]) -> None:
    from mteb.models.modality_collators import FramesCollator

    jpegs = [draw(colour, side_px=16) for colour in ("red", "blue", "green", "red", "blue", "green", "green", "red")]
    (kept,) = FramesCollator(**sampling)([{"video": StoredFrames(jpegs)}])["video"]
    expected = [np.asarray(picture).transpose(2, 0, 1) for picture in pictures(jpegs)]
    assert np.array_equal(kept.numpy(), np.stack(expected))


def stored(chain: Path) -> list[list[bytes]]:
    part = open_view(chain / "keyframes").part(0, ("jpegs",))
    return [part.frames[clip_id]["jpegs"] for clip_id in sorted(part.frames)][:2]


def test_a_text_encoder_is_refused(model: Any) -> None:
    only_text = Images(Encoder(model))
    only_text.mteb_model_meta = only_text.mteb_model_meta.model_copy(update={"modalities": ["text"]})
    with pytest.raises(M2raapError, match="'m2raap/model'"):
        MtebEmbedder(only_text)
