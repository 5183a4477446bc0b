"""Text-to-video R@1 on the validation clips, each against all of them. It chooses a checkpoint and is not reported."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.captions import CaptionTable
from m2raap.adapt.state import FrameReader, Split
from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use
from m2raap.models.video_clip import VideoCLIP

CHUNK = 32


def recall_at_1(text_QE: Tensor, video_NE: Tensor, target_Q: Tensor) -> float:
    """Share (0..1) of queries whose clip is the nearest; where n clips tie for the nearest, it counts 1/n.

    Raises M2raapError for vectors with NaN or infinity: no comparison with them holds, so that they would count as found.
    """
    similarity_QN = text_QE @ video_NE.T
    if not bool(similarity_QN.isfinite().all()):
        kind = "text" if not bool(text_QE.isfinite().all()) else "video"
        raise M2raapError(
            f"{kind} vectors of the validation clips hold NaN or infinity, so that no checkpoint can be chosen: lower adapt.lr, "
            f"adapt.lr_new or adapt.lr_gate, or set adapt.precision to fp32{code_in_use()}"
        )
    target_similarity_Q1 = similarity_QN.gather(1, target_Q[:, None])
    above_Q = (similarity_QN > target_similarity_Q1).sum(1)
    ties_Q = (similarity_QN == target_similarity_Q1).sum(1)
    return float(((above_Q == 0).double() / ties_Q).mean())


def encode_clips(
    model: VideoCLIP,
    frames: FrameReader,
    num_clips: int,
    captions: CaptionTable | None = None,
) -> Tensor:
    """Unit video vectors (N, E) of all clips, fp32, on the model's device."""
    device, was_training = model.backbone.device, model.temporal.training
    model.temporal.eval()
    videos = []
    with torch.inference_mode():
        for start in range(0, num_clips, CHUNK):
            clips = np.arange(start, min(start + CHUNK, num_clips))
            inputs, mask_BT = frames.batch(clips)
            vectors_BTE = model.frame_vectors(
                frames.levels(model, inputs.to(device), mask_BT.to(device)), mask_BT.to(device)
            )
            caption_features = captions.encode(model, clips) if captions else None
            videos.append(model.pool(vectors_BTE, mask_BT.to(device), caption_features).float())
    model.temporal.train(was_training)
    return torch.cat(videos)


def validate(model: VideoCLIP, split: Split) -> dict[str, float]:
    """R@1 for every language with texts, and their `mean`. One text per clip and language is a query."""
    device, table = model.backbone.device, split.texts
    video_NE = encode_clips(model, split.frames, split.num_clips, split.captions)
    with torch.inference_mode():
        scores: dict[str, float] = {}
        for lang in table.langs:
            clips, rows = table.queries_of(lang)
            if len(clips):
                tokens = table.tokens_NL[torch.from_numpy(rows)]
                texts = [model.encode_text(chunk.to(device)).float() for chunk in tokens.split(256)]
                scores[lang] = recall_at_1(torch.cat(texts), video_NE, torch.from_numpy(clips).to(device))
    return scores | {"mean": sum(scores.values()) / len(scores)}
