"""The curated view that an export, a card or an audit reads, and its clips one by one as an exporter takes them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.corpus import LANGS
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Exporter, Item, Media, new_folder, sign
from m2raap.core.stage import DataStage
from m2raap.core.tables import Clip
from m2raap.core.view import View, open_view
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.video.ending import ending_of
from m2raap.video.limits import Refused
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker


def curated_steps(run: RunFolder) -> list[Step]:
    """The finished data stages of the last arm that curates, in their order."""
    for arm in reversed(run.arms()):
        steps = [step for step in run.steps if step.arm == arm and step.is_of(DataStage) and not step.bench]
        finished = [step for step in steps if (step.folder / "manifest.json").exists()]
        if finished:
            return finished
    return []


def curated_view(path: Path, langs: tuple[str, ...] = LANGS) -> View:
    """The view after the last finished data stage of a run, or of a stage's or corpus's folder. Raises M2raapError."""
    if not (path / "run.json").exists():
        return open_view(path, langs)
    steps = curated_steps(RunFolder.open(path))
    if not steps:
        raise M2raapError(f"{path}: no data stage of this run is finished, so nothing is curated yet")
    return open_view(steps[-1].folder, langs)


def export(view: View, exporter: Exporter, kind: str, out: Path, media: Media | None = None) -> dict[str, Any]:
    """Writes `out` whole or not at all and returns its export.json.

    Clips without what the export needs (video file, key-frames, a text, signals) are left out and counted, and so are those whose
    file would be copied but is no video, under the reason of errors.UNREADABLE. Raises M2raapError for media that the format
    cannot carry, or where no clip is left to export.
    """
    media = media or exporter.media[0]
    if media not in exporter.media:
        carried = " or ".join(exporter.media)
        raise M2raapError(f"data export {kind}: carries {carried}, not {media}; leave out --frames and --videos")
    counts: Counter[str] = Counter()
    ids: list[str] = []

    def items() -> Iterator[Item]:
        tables = ("signals",) if exporter.signals else ("texts", "jpegs") if media == "frames" else ("texts",)
        with talk.progress(f"export {kind}", view.num_parts) as advance:
            for part in view.parts(tables):
                for clip in part.clips:
                    frames = part.frames.get(clip["clip_id"]) or {}
                    try:
                        video, ending = (None, "") if exporter.signals else _video(view, clip, kind, media, worker)
                    except Refused as refusal:
                        counts[f"left_out:{refusal.reason}"] += 1
                        continue
                    # Auxiliary captions describe single frames, not the clip.
                    texts = [text for text in part.texts_of[clip["clip_id"]] if text["origin"] != "aux"]
                    signals = part.signals.get(clip["clip_id"], {})
                    jpegs = frames.get("jpegs") or []
                    item = Item(dict(clip), [dict(text) for text in texts], jpegs, video, ending, signals)
                    if missing := _missing(item, exporter, kind, media):
                        counts[f"left_out:{missing}"] += 1
                        continue
                    counts["clips"] += 1
                    counts.update(f"texts_{text['lang']}" for text in item.texts)
                    ids.append(clip["clip_id"])
                    yield item
                advance()

    with VideoWorker() as worker, new_folder(out) as draft:
        exporter.write(items(), draft, media)
        if not ids:
            raise M2raapError(f"{view.corpus_path}: nothing to export: {dict(counts) or 'no clip is left'}")
        tree = {
            "format": kind,
            "media": media,
            "view": view.digest,
            "corpus": view.corpus.digest,
            "langs": list(view.langs),
            "video_root": os.path.relpath(view.corpus.stated_video_root, out.resolve()),
            "counts": dict(sorted(counts.items())),
        }
        return sign(draft, tree, ids)


def _video(view: View, clip: Clip, kind: str, media: Media, worker: VideoWorker) -> tuple[Path | None, str]:
    """(a clip's file, the ending of its copy); (None, "") where it is not needed or missing. Raises Refused for no video."""
    if not _needs_file(kind, media):
        return None, ""
    try:
        path = resolve_video(view.corpus.video_root, clip["video"])
    except Refused:
        return None, ""
    return path, ending_of(path, worker) if media == "videos" else ""


def _needs_file(kind: str, media: Media) -> bool:
    """Whether a clip without a file is left out: a csv that copies nothing lists it too."""
    return media == "videos" or (media == "none" and kind != "csv")


def _missing(item: Item, exporter: Exporter, kind: str, media: Media) -> str | None:
    """What a clip lacks for this export; None where it lacks nothing."""
    if exporter.signals:
        return next((f"no {name}" for name in exporter.signals if item.signals.get(name) is None), None)
    if not item.texts:
        return "no text"
    if media == "frames":
        return None if item.jpegs else "no frames"
    return "no video file" if _needs_file(kind, media) and item.video is None else None
