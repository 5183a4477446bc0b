"""index: embeds the clips of curated views into a faiss index, to which clips can be added and from which they can be removed.

An updated index is the same, byte for byte, as one made from the same views at once: new clips are embedded, the vectors of
the others are copied, and the faiss file is built again from all. After a kill the same command resumes the work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config, build, digest
from m2raap.core.engine import Engine, LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object, write_json
from m2raap.core.folder import finish, log_timing
from m2raap.core.lock import FILE as LOCK_FILE
from m2raap.core.lock import locked
from m2raap.core.signed import signed_path
from m2raap.core.tombstones import id_hash
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.index import build_index, choose_kind, write_index
from m2raap.search.clip_vectors import ClipEncoder, forget_encoder, index_encoder
from m2raap.search.gallery import FAISS, SOURCES, VECTORS, Gallery, Sources, Writer, blocks, same_view
from m2raap.search.index_parts import NAME, VERSION, Counts, embed_view, opened_gallery, scratch_block

_FILES = {
    "plan.json", "scratch", "next", "clips", "cache", "timings.jsonl", LOCK_FILE, VECTORS, "frames.npy", FAISS, SOURCES,
}  # fmt: skip


def make_index(
    out: Path,
    view: View | None,
    model: Path | BackboneConfig | None,
    *,
    kind: str = "auto",
    add: bool = False,
    remove: set[str] | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Makes the index of `view`, or updates the one at `out`, and returns the counts of clips.

    `add`: clips of `view` that are new or whose frames changed are embedded, clips that it no longer holds are removed; those
    of other views stay. `remove`: ids of the index or of `view` that are removed and never indexed again. `engine`: whose workers
    embed the clips; None: this process does. Raises M2raapError
    where `out` holds something else, where the model is not that of the index, or where no clip is left.
    """
    with locked(out):
        try:
            return _make_index(out, view, model, kind, add, remove, engine or LocalEngine(1))
        finally:
            opened_gallery.cache_clear()
            forget_encoder()


def _make_index(
    out: Path,
    view: View | None,
    model: Path | BackboneConfig | None,
    kind: str,
    add: bool,
    remove: set[str] | None,
    engine: Engine,
) -> dict[str, Any]:
    _swap_in(out)
    is_finished = (out / "manifest.json").exists()
    if not is_finished and (add or remove) and not (out / "plan.json").exists():
        raise M2raapError(
            f"{out}: there is no index to add to or remove from; make one without --add and --remove first"
        )
    known_names = _FILES if (out / "plan.json").exists() else {LOCK_FILE, "timings.jsonl"}
    if not is_finished and out.exists() and (other_names := sorted({p.name for p in out.iterdir()} - known_names)):
        raise M2raapError(f"{out}: holds '{other_names[0]}', which is not a file of an index; give an empty folder")
    old = opened_gallery(out, str(read_object(out / "manifest.json").get("digest"))) if is_finished else None
    remove = remove or set()
    if unknown := _unknown(remove, old, view):
        where = f"{out} or the view" if view else str(out)
        raise M2raapError(f"--remove: {len(unknown)} of {len(remove)} ids are not in {where}, first '{unknown[0]}'")
    if old and not add and not remove:
        return _unchanged(out, old, view, model, kind)
    started = time.monotonic()
    named, may_fetch = ("--model", True) if model is not None else ("the model that it names", False)
    model = model or (old.sources.model if old else None)
    if model is None:
        raise M2raapError("--model is needed to make an index: give a model folder, an adapt folder, or builtin:tiny")
    counts = Counts()
    sources = old.sources if old else Sources(model, (), ())
    number = len(sources.views)
    model_digest = old.model_digest if old else ""
    if view:
        encoder = index_encoder(model, may_fetch)
        model_digest = encoder.digest
        if old and model_digest != old.model_digest:
            raise M2raapError(
                f"{out}: was made with model {old.model_digest[:12]}, and {named} is now {model_digest[:12]}; vectors of two "
                "models cannot be compared: make a new index with another --out. --remove without a view still removes clips"
            )
        number = next((n for n, known_view in enumerate(sources.views) if same_view(known_view, view)), number)
        sources = _with_view(sources, number, view, model)
    removed_now = {id_hash(clip_id) for clip_id in remove} - set(sources.removed)
    sources = replace(sources, removed=(*sources.removed, *removed_now))
    fresh = 0
    if view:
        fresh = embed_view(out, view, number, sources, removed_now, encoder, may_fetch, old, counts, engine)
    if view and replace(view).digest != sources.digests[number]:  # a copy: `view` may have cached its digest
        raise M2raapError(f"{out}: the view has changed while it was read; run the same command again")
    asked_kind = kind if kind != "auto" or not old else old.manifest["settings"]["asked"]
    assemble(out, sources, number if view else None, old, remove, asked_kind, model_digest)
    _swap_in(out)
    log_timing(out, NAME, time.monotonic() - started, embedded=fresh)
    gallery = Gallery.open(out)
    return {
        "clips": len(gallery.clips),
        "kind": gallery.manifest["settings"]["kind"],
        "model": gallery.model_digest,
        "langs": list(gallery.langs),
        "removed": len(removed_now),
        **vars(counts),
    }


def _unchanged(
    out: Path, old: Gallery, view: View | None, model: Path | BackboneConfig | None, kind: str
) -> dict[str, Any]:
    """The counts of the finished index at `out`. Raises M2raapError where it is not the requested index."""
    asked_kind = old.manifest["settings"]["asked"]
    same = view and len(old.sources.views) == 1 and same_view(old.sources.views[0], view)
    if not same or not view or view.digest != old.sources.digests[0] or kind not in ("auto", asked_kind):
        raise M2raapError(f"{out}: holds another index; update it with --add, or give another --out")
    if model and ClipEncoder(model).digest != old.model_digest:
        raise M2raapError(f"{out}: holds an index of another model ({old.model_digest[:12]}); give another --out")
    talk.log(f"{out.name}: already finished")
    settings = old.manifest["settings"]
    done = {"clips": len(old.clips), "kind": settings["kind"], "model": old.model_digest, "langs": list(old.langs)}
    return done | {"removed": 0} | vars(Counts(kept=len(old.clips)))


def _unknown(remove: set[str], old: Gallery | None, view: View | None) -> list[str]:
    """Ids to remove that neither the index nor the view holds."""
    left = remove - (old.row_of.keys() if old else set())
    for index in range(view.num_parts if view and left else 0):
        assert view
        left -= {clip["clip_id"] for clip in view.part(index, ()).clips}
    return sorted(left)


def _with_view(sources: Sources, number: int, view: View, model: Path | BackboneConfig) -> Sources:
    views, digests = list(sources.views), list(sources.digests)
    views[number : number + 1], digests[number : number + 1] = [view], [view.digest]
    return replace(sources, model=model, views=tuple(views), digests=tuple(digests))


def assemble(
    out: Path,
    sources: Sources,
    embedded_view: int | None,
    old: Gallery | None,
    remove: set[str],
    asked_kind: str,
    model_digest: str,
) -> None:
    """Writes the whole new index to next/, for `_swap_in`. `embedded_view`: number of the view whose clips are in scratch/."""
    next_folder = out / "next"
    shutil.rmtree(next_folder, ignore_errors=True)
    dim = old.vectors_NE.shape[1] if old else 0
    writer: Writer | None = None
    for number in range(len(sources.views)):
        if number == embedded_view:
            source = (scratch_block(path) for path in sorted((out / "scratch" / "clips").glob("part-*.parquet")))
        else:
            assert old is not None
            of_view = np.flatnonzero(old.clips["view"].to_numpy() == number).tolist()
            ids = old.clips["clip_id"]
            rows = [row for row in of_view if not remove or ids[row].as_py() not in remove]
            source = blocks(old, rows, number)
        for clips, vectors_NE, frames_FE in source:
            if len(clips):
                writer = writer or Writer(next_folder, dim or vectors_NE.shape[1])
                writer.add(clips, vectors_NE, frames_FE)
    if writer is None:
        raise M2raapError(f"{out}: no clip with frames is left for the index; does the view hold a keyframes folder?")
    writer.close()
    vectors_NE = np.load(next_folder / VECTORS, mmap_mode="r", allow_pickle=False)
    kind = choose_kind(writer.num_clips) if asked_kind == "auto" else asked_kind
    talk.log(f"{out.name}: {writer.num_clips:,} clips, building the {kind} index")
    writer.files[FAISS] = write_index(build_index(vectors_NE, kind), next_folder / FAISS)  # type: ignore[arg-type]  # a kind that the manifest names
    write_json(next_folder / SOURCES, sources.tree(out))
    langs = sorted({lang for view in sources.views for lang in view.langs})
    settings = {"asked": asked_kind, "kind": kind, "langs": langs, "dim": int(vectors_NE.shape[1])}
    ready = {"settings": settings, "counts": {"clips": writer.num_clips}, "model": model_digest, "files": writer.files}
    write_json(next_folder / "ready.json", ready)


class _Ready(Config):
    """ready.json, which is written last: next/ is complete."""

    settings: dict[str, Any] = Field(description="Settings of the new manifest.")
    counts: dict[str, int] = Field(description="Counts of the new manifest.")
    model: str = Field(description="Digest of the model that made the vectors.")
    files: dict[str, str] = Field(description="SHA-256 of every file in next/, by its key in the manifest.")


def _swap_in(out: Path) -> None:
    """Moves the files of next/ into place and writes the manifest. A run that follows a killed one does this first."""
    next_folder = out / "next"
    if not (next_folder / "ready.json").exists():
        return
    ready = build(_Ready, read_object(next_folder / "ready.json"), str(next_folder / "ready.json"))
    targets = {signed_path(out, key): signed_path(next_folder, key) for key in (*ready.files, SOURCES)}
    (out / "manifest.json").unlink(missing_ok=True)
    # Parts of the old index that the new one does not have; a killed run may have moved new ones here already.
    for path in (out / "clips").glob("part-*.parquet"):
        if path not in targets:
            path.unlink()
    for target, source in targets.items():
        if source.exists():
            target.parent.mkdir(exist_ok=True)
            os.replace(source, target)
    sources = Sources.read(out)
    files = ready.files | {SOURCES: hashlib.sha256((out / SOURCES).read_bytes()).hexdigest()}
    inputs = {"views": digest(list(sources.digests))}
    models = {"model": ready.model}
    finish(out, NAME, VERSION, sources.views[0], ready.settings, files, ready.counts, inputs, models)
    shutil.rmtree(next_folder)
    shutil.rmtree(out / "scratch", ignore_errors=True)
    (out / "plan.json").unlink(missing_ok=True)
