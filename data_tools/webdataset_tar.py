"""Importer of webdataset tar shards: {key}.mp4 with {key}.txt and/or {key}.json; videos are copied to OUT/videos.

Shards are untrusted: `safe_tar` reads them, a video is stored under a hash of its key and never under a name from the
archive, and pickles are refused. The members of a key have to follow each other, and a key has to be unique in all shards. A
sample without a video (its download failed) stays and is listed as `missing_file`. Shards that `data export webdataset`
wrote keep their ids, times and provenance.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.cell_readers import span, text_of
from data_tools.cells import first_filled, is_nothing, texts_in
from data_tools.columns import CAPTION, SHARDS, Columns
from data_tools.corpora import write_training
from data_tools.listing import KINDS, PICKLE, PICKLE_ENDINGS, kind_of
from data_tools.pairs import Pairs
from data_tools.provenance import ORIGINS
from data_tools.rooted import SUFFIXES
from data_tools.safe_tar import Member, TarLimits, read_members
from data_tools.splits import SPLIT, Splits
from data_tools.strict_json import parse_json
from data_tools.table import KEPT, LANGUAGE, captions_of, in_stated_language
from m2raap.core import exports
from m2raap.core.corpus import LANGS, Corpus, importing
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_error
from m2raap.core.replace import refuse_other_files

ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_KINDS = 20  # of members, that are named as not read
MAX_TEXT_BYTES = 4 * 1024**2
_META = ("clip_id", "start_s", "end_s")


@dataclass
class _Sample:
    key: str
    shard: Path
    video: str | None = None  # below OUT/videos
    text: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)  # the object of {key}.json
    kinds: set[str] = field(default_factory=set)  # video, txt, json: the members that it has


def import_webdataset(
    source: Path, out: Path, *, num_holdout: int | None = None, seed: int = 0, limits: TarLimits | None = None
) -> list[Corpus]:
    """`source`: a shard, or a folder of them. Raises M2raapError naming shard and member.

    Then OUT is unchanged, unless it may be replaced (core/replace.py).
    """
    shards = _shards(source)
    with importing(out):
        return _import(source, shards, out, num_holdout, seed, limits)


def _import(
    source: Path, shards: list[Path], out: Path, num_holdout: int | None, seed: int, limits: TarLimits | None
) -> list[Corpus]:
    videos, draft = out / "videos", out / "videos" / ".draft"
    shutil.rmtree(draft, ignore_errors=True)  # left by an import that was interrupted
    pairs = Pairs(source, source.stem if source.is_file() else source.name)
    keys: set[bytes] = set()
    columns = Columns((*_META, *CAPTION, *LANGUAGE, *SPLIT, *(name for names in KEPT.values() for name in names)))
    columns.used.update(_META)
    splits = Splits(source)
    try:
        for shard in shards:
            pairs.listing = shard
            sample = _Sample("", shard)
            for member in read_members(shard, limits):
                key, kind = _key_and_kind(member.name)
                if not key:
                    pairs.notes["skipped_members"] += 1
                    continue
                if key != sample.key:
                    _add_sample(pairs, sample, columns, splits)
                    sample = _new_sample(key, shard, keys)
                _add_member(pairs, sample, member, kind, draft)
            _add_sample(pairs, sample, columns, splits)
        splits.check()
        if not pairs.clips:
            raise M2raapError(f"{source}: holds no sample with a video, a text or a json")
        if num_holdout and num_holdout >= len(pairs.clips):
            # Without a training corpus the copied videos would lie in no corpus.
            raise M2raapError(
                f"--holdout {num_holdout}: must be between 1 and {len(pairs.clips) - 1}, one less than the clips"
            )
        _refuse_other_videos(draft, videos, out)
    except M2raapError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    pairs.unread["the json members"] = columns.unread
    pairs.unread_lists = _others(source, shards)
    new_videos = _move_videos(draft, videos)
    origin = {"importer": "webdataset", "listing": source.name, "shards": len(shards)}
    try:
        corpora = write_training(out, pairs, root=videos, source=origin, num_holdout=num_holdout, seed=seed)
    except M2raapError:
        for path in new_videos:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                path.parent.rmdir()
        raise
    _delete_unused_videos(videos, corpora)
    return corpora


def _shards(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    shards = sorted(path for path in source.glob("*") if _is_shard(path)) if source.is_dir() else []
    if not shards:
        raise M2raapError(f"{source}: no such archive, and no folder that holds {', '.join(ENDINGS)} files")
    return shards


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def _others(source: Path, shards: list[Path]) -> list[str]:
    """What lies in the folder of the shards and is not read: shards in folders below, and tables beside the shards."""
    tables = [path for path in source.glob("*") if kind_of(path) in KINDS and path.name != exports.FILE]
    others = [path for path in source.glob("*/**/*") if _is_shard(path)] + tables
    return sorted(str(path.relative_to(source)) for path in others if path not in shards)


def _key_and_kind(name: str) -> tuple[str, str]:
    """By webdataset's rule: the key of a member ends at the first dot of its file name, its kind follows the last dot.

    'a/b.left.mp4' -> ('a/b', 'mp4'); hidden files ('._x', '.x') have no key.
    """
    path = PurePosixPath(name)
    stem, _, rest = path.name.partition(".")
    return (str(path.with_name(stem)) if stem else ""), rest.rpartition(".")[2].lower()


def _new_sample(key: str, shard: Path, keys: set[bytes]) -> _Sample:
    hashed = hashlib.blake2b(key.encode(), digest_size=16).digest()  # takes less memory than millions of long keys
    if hashed in keys:
        raise M2raapError(
            f"{shard}: the key '{key[:100]}' comes twice; the members of a key have to follow each other, in one shard: "
            "rename one of the two"
        )
    keys.add(hashed)
    return _Sample(key, shard)


def _add_member(pairs: Pairs, sample: _Sample, member: Member, kind: str, videos: Path) -> None:
    if kind in PICKLE_ENDINGS:
        raise M2raapError(f"{sample.shard}: '{member.name}' is {PICKLE}; leave it out of the shard")
    what = "video" if f".{kind}" in SUFFIXES else kind
    if what not in ("video", "txt", "json"):
        pairs.notes["skipped_members"] += 1
        unread = pairs.unread.setdefault(SHARDS, [])
        if f".{what}" not in unread and len(unread) < MAX_KINDS:
            unread.append(f".{what}")
        return
    if what in sample.kinds:
        raise M2raapError(f"{sample.shard}: '{member.name}' is the second {what} of the key '{sample.key[:100]}'")
    sample.kinds.add(what)
    if what == "video":
        sample.video = _file_name(sample.key, kind)
        _copy(member, videos / sample.video)
    elif what == "txt":
        sample.text = _decoded(sample, member)
    else:
        sample.meta = _json_object(sample, member)


def _file_name(key: str, kind: str) -> str:
    name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{name[:2]}/{name}.{kind}"


def _copy(member: Member, path: Path) -> None:
    chunks = member.chunks()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as sink:
            for data in chunks:
                sink.write(data)
    except OSError as error:
        raise write_error(path, error) from None


def _decoded(sample: _Sample, member: Member) -> str:
    try:
        return member.read(MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise M2raapError(f"{sample.shard}: '{member.name}': not UTF-8 at byte {error.start}") from None


def _json_object(sample: _Sample, member: Member) -> dict[str, Any]:
    try:
        tree = parse_json(_decoded(sample, member))
    except ValueError as error:
        raise M2raapError(f"{sample.shard}: '{member.name}': not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise M2raapError(f"{sample.shard}: '{member.name}': expected an object, found {type(tree).__name__}")
    return tree


def _add_sample(pairs: Pairs, sample: _Sample, columns: Columns, splits: Splits) -> None:
    """Adds a complete sample; one without any video, text or json (images only ...) is counted as left out."""
    if not sample.kinds:
        if sample.key:
            pairs.notes["skipped_samples"] += 1
        return
    meta, where = columns.row(sample.meta), f"key '{sample.key[:100]}'"
    texts = meta.get("texts")
    exported = isinstance(texts, list) and bool(texts) and all(isinstance(row, dict) for row in texts)
    stated_id = meta.get("clip_id")
    if exported and isinstance(stated_id, str) and stated_id:
        clip_id = stated_id  # as it stands, also where it reads like 'NA'
    elif isinstance(stated_id, list | dict | bool):
        raise M2raapError(f"{pairs.listing}: {where}, 'clip_id': expected a text, found {stated_id!r:.60}")
    else:
        clip_id = sample.key if is_nothing(stated_id) else text_of(pairs.listing, 0, "clip_id", stated_id)
    times = (meta.get("start_s"), meta.get("end_s"))
    start_s, end_s = span(pairs.listing, len(pairs.clips) + 1, *times, ("start_s", "end_s"))
    kept = {}
    for column, names in KEPT.items():
        name, value = first_filled(meta, names)
        if name:
            kept[column] = str(value)
            columns.used.add(name)
    splits.add(where, meta)
    try:
        split, texts_of_txt = splits.of(where, meta, columns), [] if exported else texts_in(sample.text)
    except ValueError as error:
        raise M2raapError(f"{pairs.listing}: {where}: {error}") from None
    video = sample.video or _file_name(sample.key, "mp4")
    clip_id = pairs.clip(where, clip_id, video, start_s=start_s, end_s=end_s, split=split, **kept)["clip_id"]
    if exported:
        assert isinstance(texts, list)
        columns.used.add("texts")
        _add_exported_texts(pairs, where, clip_id, texts)
        return
    captions = captions_of(meta, columns, f"{pairs.listing}: {where}")
    columns.used.update(name for name, _, _ in captions)
    known = {text.strip() for _, _, text in captions}
    captions = [("txt", None, text.strip()) for text in texts_of_txt if text.strip() not in known] + captions
    for _, lang, text in in_stated_language(captions, meta, columns, pairs):
        pairs.text(clip_id, text, lang)


def _add_exported_texts(pairs: Pairs, where: str, clip_id: str, texts: list[dict[str, Any]]) -> None:
    """Adds texts with provenance, as `data export webdataset` writes them."""
    new_ids: dict[str, str | None] = {}
    for row in texts:
        text, lang, origin = row.get("text"), row.get("lang"), row.get("origin", "raw")
        if not isinstance(text, str) or lang not in LANGS or origin not in ORIGINS:
            raise M2raapError(
                f"{pairs.listing}: {where}, 'texts': expected text, lang ({', '.join(LANGS)}) and origin "
                f"({', '.join(ORIGINS)})"
            )
        parent = new_ids.get(str(row.get("parent_text_id")))
        more = {"producer": str(row["producer"])} if row.get("producer") else {}
        new_ids[str(row.get("text_id"))] = pairs.text(clip_id, text, lang, origin=origin, parent_text_id=parent, **more)


def _refuse_other_videos(draft: Path, videos: Path, out: Path) -> None:
    """Raises M2raapError where a video would replace one of the corpus that `out` holds, with other bytes, and may not."""
    names = sorted(str(path.relative_to(draft)) for path in draft.glob("*/*"))
    names = [name for name in names if (videos / name).is_file()]
    changed = [name for name in names if not filecmp.cmp(draft / name, videos / name, shallow=False)]
    refuse_other_files(out, [f"videos/{name}" for name in changed])


def _move_videos(draft: Path, videos: Path) -> list[Path]:
    """Moves the videos of the draft to their places; returns those that were not there before."""
    videos.mkdir(parents=True, exist_ok=True)
    new_videos: list[Path] = []
    for path in sorted(draft.glob("*/*")):
        target = videos / path.relative_to(draft)
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            new_videos.append(target)
        os.replace(path, target)
    shutil.rmtree(draft, ignore_errors=True)
    return new_videos


def _delete_unused_videos(videos: Path, corpora: Iterable[Corpus]) -> None:
    """Deletes videos that no clip uses: of an earlier import, of clips that are left out or forgotten."""
    named = {row["video"] for corpus in corpora for row in corpus.all_rows("clips", ["video"])}
    for path in videos.glob("[0-9a-f][0-9a-f]/*"):
        if f"{path.parent.name}/{path.name}" not in named:
            path.unlink()
