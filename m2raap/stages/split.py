"""split: cuts long videos without texts into a corpus of single-shot clips.

Each video is decoded once for its cuts. The result is stored in OUT/split, by the video's content and the settings, so that the
same command resumes after an interruption, and other lengths of clips decode nothing again.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from m2raap.core import talk
from m2raap.core.config import Config, digest, result_settings
from m2raap.core.corpus import Corpus, holdout, importing, write_corpus
from m2raap.core.engine import Engine
from m2raap.core.errors import WORTH_ANOTHER_TRY, M2raapError, UsageError
from m2raap.core.files import remove_drafts, write_json
from m2raap.core.records import as_object, read_record
from m2raap.core.replace import refuse_other_source
from m2raap.core.tables import Row
from m2raap.core.videos import VideoDigests
from m2raap.stages.transnet import transnet_cuts, weights_file
from m2raap.stages.videos import video_worker
from m2raap.video.cut import CRF, cut
from m2raap.video.health import find_files, printable
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.scene_list import read_scene_list
from m2raap.video.scenes import Scenes
from m2raap.video.worker import VideoWorker

VERSION = 4
BAD_LIST = "bad_scene_list"  # the scene list of a video cannot be read, or is that of another video
_MAX_NAMED_LISTS = 10  # wrong scene lists that are named in messages; `dropped` holds all
VAL_SHARE = 0.1  # of the videos, not of the clips: clips of one video look alike
_MAX_NAME_BYTES = 120
_RECORD = "record.json"  # of one video, in OUT/split: its cuts, and the files that were cut from it


class SplitConfig(Config):
    """How videos are cut into clips, and the limits on reading them."""

    detector: Literal["adaptive", "content", "hash", "histogram", "transnetv2"] = Field(
        default="adaptive", description="Method that finds the cuts between shots."
    )
    min_shot_s: float = Field(
        default=0.6,
        ge=0,
        description="Seconds that must lie between two cuts; a cut that follows sooner is ignored.",
    )
    min_s: float = Field(default=1.0, ge=0, description="Seconds that a shot needs; shorter shots are dropped.")
    max_s: float = Field(
        default=60.0, gt=0, description="Most seconds of a clip; longer shots are cut into equal pieces."
    )
    cut: bool = Field(default=False, description="Whether each clip becomes a video file of its own.")
    decode: VideoConfig = Field(
        default_factory=lambda: VideoConfig(timeout_s=3600.0),
        description="Limits on the process that decodes one whole video.",
    )

    @model_validator(mode="after")
    def _pieces_are_long_enough(self) -> SplitConfig:
        if self.min_s > self.max_s / 2:
            raise ValueError(
                f"min_s {self.min_s:g} is more than half of max_s {self.max_s:g}: pieces of a long shot could be too short"
            )
        return self


@dataclass(frozen=True)
class SplitDone:
    corpus: Corpus
    num_videos: int
    dropped: dict[str, int]  # videos and shots by reason
    left_out: int  # links that were not followed


@dataclass(frozen=True)
class _Task:
    path: Path  # real
    video: str  # relative to the common folder of all videos; may hold bytes that are no UTF-8
    name: str  # `video` as an id that is also a file name
    out: Path
    cfg: SplitConfig
    scenes: list[tuple[float, float]] | None  # from a scene list; None: to be detected
    bad_list: str | None = None  # what is wrong with its scene list


def split(
    paths: Sequence[Path], out: Path, cfg: SplitConfig, engine: Engine, scene_lists: Path | None = None
) -> SplitDone:
    """Writes the corpus `out` over the videos at `paths` (files and folders). `scene_lists`: a CSV of PySceneDetect for the
    one video, or a folder of such files. Unreadable videos, videos with a wrong list and shots that are too short are rows of
    `dropped`.

    Raises M2raapError where no clip is left, a scene list is missing, or `out` holds something other than a corpus.
    """
    if cfg.detector == "transnetv2" and scene_lists is None:
        weights_file()
    with importing(out):
        return _split(paths, out, cfg, engine, scene_lists)


def _split(paths: Sequence[Path], out: Path, cfg: SplitConfig, engine: Engine, scene_lists: Path | None) -> SplitDone:
    root, files, left_out = _find(paths, out, cfg.cut)
    tasks = [_Task(path, video, name, out, cfg, None) for path, video, name in files]
    if scene_lists is not None:
        lists = _scene_lists(tasks, scene_lists)
        tasks = [_Task(t.path, t.video, t.name, out, cfg, *result) for t, result in zip(tasks, lists, strict=True)]
    source = {
        "importer": "split",
        "detector": "scene list" if scene_lists else cfg.detector,
        "videos": len(tasks),
        **({} if scene_lists else {"min_shot_s": cfg.min_shot_s}),
        "min_s": cfg.min_s,
        "max_s": cfg.max_s,
        "cut": cfg.cut,
    }
    refuse_other_source(out, source)  # before the cuts of an earlier import are replaced
    remove_drafts(out / "videos")
    results: list[tuple[list[Row], list[Row]]] = [([], [])] * len(tasks)
    with talk.progress("split", len(tasks)) as advance:
        for index, rows in engine.map(_split_one, tasks, cfg.detector == "transnetv2"):
            results[index] = rows
            advance()
    clips = [row for kept, _ in results for row in kept]
    dropped = [row for _, drops in results for row in drops]
    reasons = dict(sorted(Counter(row["reason"] for row in dropped).items()))
    bad_lists = [row["detail"] for row in dropped if row["reason"] == BAD_LIST]
    if bad_lists and not clips:
        raise M2raapError(f"{'; '.join(bad_lists[:_MAX_NAMED_LISTS])}; no clip is left of {len(tasks)} videos")
    for detail in bad_lists[:_MAX_NAMED_LISTS]:
        talk.log(f"left out, because its scene list is wrong: {detail}")
    if not clips:
        raise M2raapError(f"{out}: no clip is left of {len(tasks)} videos; dropped by reason: {reasons}")
    held = _val_videos({task.name for task, (kept, _) in zip(tasks, results, strict=True) if kept})
    for task, (kept, _) in zip(tasks, results, strict=True):
        for row in kept:
            row["split"] = "val" if task.name in held else "train"
    corpus = write_corpus(
        out, clips, [], video_root=out / "videos" if cfg.cut else root, source=source, dropped=dropped
    )
    _remove_unused_cuts(out, {task.name for task in tasks}, {row["video"] for row in clips} if cfg.cut else set())
    return SplitDone(corpus, len(tasks), reasons, left_out)


def _find(paths: Sequence[Path], out: Path, copies: bool) -> tuple[Path, list[tuple[Path, str, str]], int]:
    """(common folder, (real path, path relative to it, its name as an id) of each video, number of links left out)."""
    videos, left_out = find_files(paths)
    for line in left_out:
        talk.log(f"left out: {line}")
    out_path = Path(os.path.realpath(out))
    real = sorted({video.real for video in videos}, key=os.fsencode)
    real = [path for path in real if not path.is_relative_to(out_path)]
    if not real:
        raise M2raapError(
            f"{', '.join(printable(path) for path in paths)}: no file found; give videos or folders with videos"
        )
    root = Path(os.path.commonpath([path.parent for path in real]))
    if root == Path(root.anchor) and not copies:
        raise M2raapError(
            f"the videos have only {root} as a common folder, but a corpus needs one folder for its videos; "
            "split them in several commands, or give --cut"
        )
    relative = [path.relative_to(root).as_posix() for path in real]
    return root, [(path, video, as_name(video)) for path, video in zip(real, relative, strict=True)], len(left_out)


def as_name(video: str) -> str:
    """A relative path as an id that is also a safe and stable file name; different paths give different names.

    Letters, digits, '.', '_' and '-' stay, '/' becomes '+', and all others %XX: control characters, shell and URL signs, a
    leading '.' or '-', bytes that are no UTF-8, and letters that have two spellings in Unicode. Long names end in a hash.
    """
    spelled = "".join(
        c
        if (c.isalnum() and unicodedata.normalize("NFKC", c) == c) or (c in "._-" and i > 0)
        else "+"
        if c == "/"
        else "".join(f"%{byte:02X}" for byte in os.fsencode(c))
        for i, c in enumerate(video)
    )
    whole = spelled.encode()
    if len(whole) <= _MAX_NAME_BYTES:
        return spelled
    mark = hashlib.blake2b(os.fsencode(video), digest_size=8).hexdigest()
    return f"{whole[: _MAX_NAME_BYTES - 17].decode(errors='ignore')}~{mark}"


def _scene_lists(
    tasks: Sequence[_Task], scene_lists: Path
) -> list[tuple[list[tuple[float, float]] | None, str | None]]:
    """For each video its scenes, or what is wrong with its list: a wrong list drops its own video alone.

    Raises M2raapError for a video that has no list, and for the one list of one video.
    """
    if not scene_lists.is_dir():
        if len(tasks) != 1:
            raise UsageError(
                f"--scenes {scene_lists}: is one list, but there are {len(tasks)} videos; give a folder of NAME-Scenes.csv"
            )
        return [(read_scene_list(scene_lists), None)]
    lists: list[tuple[list[tuple[float, float]] | None, str | None]] = []
    for task in tasks:
        stem = Path(task.video).with_suffix("")
        places = [scene_lists / f"{stem}-Scenes.csv", scene_lists / f"{stem.name}-Scenes.csv"]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise M2raapError(f"{printable(task.path)}: has no scene list; provide {printable(places[-1])}")
        try:
            lists.append((read_scene_list(path), None))
        except M2raapError as error:
            lists.append((None, str(error)))
    return lists


# The record of one video. `found`: its scenes, or why it was refused; `files`: the files cut from it, with their keys; `old`:
# files of earlier cuts.
_Record = TypedDict(  # noqa: UP013
    "_Record", {"key": str | None, "found": dict[str, Any], "files": dict[str, str], "old": list[str]}
)


def _split_one(task: _Task) -> tuple[list[Row], list[Row]]:
    """The rows of `clips` and of `dropped` for one video."""
    if task.bad_list:
        return [], [_drop(task.name, BAD_LIST, task.bad_list)]
    if not task.cfg.cut and (fault := _fault_of_path(task)) is not None:
        return [], [_drop(task.name, "bad_name", fault)]
    record_path = task.out / "split" / task.name / _RECORD
    record: _Record = {"key": None, "found": {}, "files": {}, "old": []}
    if record_path.exists():
        record = read_record(_Record, record_path)
    videos = VideoDigests(record_path.with_name("digests.json"))
    content = videos.of("video", task.path, task.cfg.decode.max_bytes)
    videos.save()
    cfg = task.cfg
    key = digest(
        [VERSION, content, None if task.scenes else [cfg.detector, cfg.min_shot_s], result_settings(cfg.decode)]
    )
    worker = video_worker(cfg.decode)
    if record["key"] != key or record["found"].get("refused") in WORTH_ANOTHER_TRY:
        record = {
            "key": key,
            "found": _detect(task, worker),
            "files": {},
            "old": sorted({*record["files"], *record["old"]}),
        }
        write_json(record_path, record)
    if "refused" in record["found"]:
        return [], [_drop(task.name, record["found"]["refused"], record["found"].get("detail", ""))]
    scenes = as_object(Scenes, record["found"], record_path)
    if task.scenes and task.scenes[-1][0] >= (length_s := scenes.end_s - scenes.first_s):
        detail = (
            f"{printable(task.path)}: its scene list has a scene at {task.scenes[-1][0]:.3f} s, but the video is "
            f"{length_s:.3f} s long; give the scene list of this video"
        )
        return [], [_drop(task.name, BAD_LIST, detail)]
    clips: list[Row] = []
    dropped: list[Row] = []
    for number, (start_s, end_s) in enumerate(pieces(_shots(task, scenes), cfg.max_s)):
        clip_id = f"{task.name}.{number:05d}"
        length_s = end_s - start_s
        if length_s < cfg.min_s:
            detail = f"a shot from {start_s:.3f} s to {end_s:.3f} s"
            dropped.append(
                _drop(clip_id, "clip_too_short", detail) | {"score": round(length_s, 6), "threshold": cfg.min_s}
            )
            continue
        row: Row = {"clip_id": clip_id, "video": task.video, "start_s": start_s, "end_s": end_s, "source": task.video}
        if cfg.cut:
            name = f"{clip_id}.mp4"
            file_key = digest([key, start_s, end_s, CRF])
            try:
                _cut(task, worker, scenes, start_s, end_s, name, record["files"].get(name) == file_key)
            except Refused as refused:
                dropped.append(_drop(clip_id, refused.reason, refused.detail))
                continue
            if record["files"].get(name) != file_key:
                record["files"][name] = file_key
                write_json(record_path, record)
            span = f"#t={start_s:.6f},{end_s:.6f}"  # as in W3C Media Fragments
            row |= {"video": name, "start_s": None, "end_s": None, "source": printable(Path(task.video)) + span}
        clips.append(row)
    return clips, dropped


def _fault_of_path(task: _Task) -> str | None:
    """Why later stages could not open the video by its relative path; None where they can."""
    try:
        task.video.encode()
        root = task.path.parents[task.video.count("/")]
        resolve_video(root, task.video)
    except UnicodeEncodeError:
        return "the name is no UTF-8; rename the file, or give --cut"
    except Refused as refused:
        return f"{refused.detail}; rename the file, or give --cut" if refused.reason == "outside_root" else None
    return None


def _detect(task: _Task, worker: VideoWorker) -> dict[str, Any]:
    cfg = task.cfg
    decode_only = task.scenes is not None or cfg.detector == "transnetv2"
    try:
        scenes = worker.scenes(task.path, "none" if decode_only else cfg.detector, cfg.min_shot_s)
        if task.scenes is None and cfg.detector == "transnetv2":
            scenes.cuts_s = transnet_cuts(worker, task.path, 0.0, None, cfg.min_shot_s)
    except Refused as refused:
        return {"refused": refused.reason, "detail": refused.detail}
    return asdict(scenes)


def _shots(task: _Task, scenes: Scenes) -> list[tuple[float, float]]:
    if task.scenes is None:
        cuts_s = [cut_s for cut_s in scenes.cuts_s if scenes.first_s < cut_s < scenes.end_s]
        return list(pairwise([scenes.first_s, *cuts_s, scenes.end_s]))
    # A scene list counts from the first frame, a corpus from the container's start.
    return [(scenes.first_s + start, min(scenes.first_s + end, scenes.end_s)) for start, end in task.scenes]


def pieces(shots: Iterable[tuple[float, float]], max_s: float) -> list[tuple[float, float]]:
    """(start_s, end_s) of shots, ascending, rounded to microseconds; a shot longer than `max_s` in equal pieces of at most it."""
    spans: list[tuple[float, float]] = []
    for start_s, end_s in shots:
        count = max(1, math.ceil((end_s - start_s) / max_s - 1e-9))
        edges = [round(start_s + (end_s - start_s) * i / count, 6) for i in range(count + 1)]
        spans.extend(pairwise(edges))
    return spans


def _cut(
    task: _Task, worker: VideoWorker, scenes: Scenes, start_s: float, end_s: float, name: str, was_cut: bool
) -> None:
    path = task.out / "videos" / name
    if was_cut and path.is_file():
        return
    cut(task.path, start_s, end_s, scenes, path, task.cfg.decode)
    try:
        worker.probe(Path(os.path.realpath(path)))
    except Refused as refused:
        path.unlink()
        raise Refused(
            "corrupt", f"from {start_s:.3f} s to {end_s:.3f} s no frame could be cut out: {refused}"
        ) from None


def _drop(clip_id: str, reason: str, detail: str) -> Row:
    return {
        "clip_id": clip_id,
        "stage": "split",
        "reason": reason,
        "rule_version": f"split/{VERSION}",
        "detail": detail.encode(errors="backslashreplace").decode(),
    }


def _val_videos(videos: set[str]) -> set[str]:
    """Names of the videos for val: VAL_SHARE of them, at least one where there are two; chosen by a hash of their names."""
    if len(videos) < 2:
        return set()
    return holdout([{"clip_id": video} for video in sorted(videos)], max(1, round(VAL_SHARE * len(videos))), seed=0)


def _remove_unused_cuts(out: Path, names: set[str], used: set[str]) -> None:
    """Removes the files that an earlier split cut into this folder and that no clip uses now, and no other files."""
    for record_path in sorted((out / "split").glob(f"*/{_RECORD}")):
        record = read_record(_Record, record_path)
        for file in {*record["files"], *record["old"]} - used:
            (out / "videos" / Path(file).name).unlink(missing_ok=True)
        if record_path.parent.name in names:
            kept = {file: key for file, key in record["files"].items() if file in used}
            write_json(record_path, record | {"files": kept, "old": []})
        else:
            shutil.rmtree(record_path.parent)
