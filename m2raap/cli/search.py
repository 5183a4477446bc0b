"""`search`: index clips, query the index, and serve it with a search page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.core import talk
from m2raap.core.errors import M2raapError, UsageError

if TYPE_CHECKING:
    from m2raap.models.config import BackboneConfig

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="a model folder, an adapt folder, or a backbone: builtin:tiny, hf-hub:..."),
]
IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="the --out of 'm2raap search index'")]
# Key of a count of an index -> its label on the console.
COUNTS = {
    "embedded": "embedded",
    "kept": "unchanged",
    "removed": "removed",
    "without_frames": "left out: no frames",
    "removed_before": "left out: removed earlier",
    "elsewhere": "already indexed from another view",
}

app = typer.Typer(help="Index clips, and search them.", no_args_is_help=True, rich_markup_mode=None)


def chosen_model(name: str | None) -> Path | BackboneConfig | None:
    """The model folder or the backbone that `--model` names. Raises M2raapError where it is neither."""
    from m2raap.models.config import BackboneConfig
    from m2raap.stages.embedder import model_folder

    if name is None:
        return None
    if Path(name).is_dir():
        return model_folder(Path(name))
    if ":" not in name:
        raise M2raapError(
            f"--model {name}: no such folder; give a model folder, an adapt folder, builtin:tiny or hf-hub:..."
        )
    return BackboneConfig(model=name)


@app.command("index", help="Embed the clips of a view and index them for search.")
def index(
    out: options.OutOption,
    view: Annotated[
        Path | None, typer.Argument(metavar="[VIEW]", help="a keyframes folder, or the folder of a later data stage")
    ] = None,
    model: ModelOption = None,
    kind: Annotated[
        str, typer.Option("--kind", help="auto (by size), flat (exact), hnsw, ivf, or pq (compressed)")
    ] = "auto",
    add: Annotated[bool, typer.Option("--add", help="update an index: only new clips are embedded")] = False,
    remove: Annotated[
        Path | None,
        typer.Option("--remove", metavar="IDS", help="file with one clip id per line: remove these clips permanently"),
    ] = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.config import suggestion
    from m2raap.core.view import open_view
    from m2raap.export.forget import read_ids
    from m2raap.retrieval.index import KINDS
    from m2raap.search.index import make_index

    if kind not in ("auto", *KINDS):
        raise UsageError(f"--kind {kind}: {suggestion(kind, ('auto', *KINDS))}")
    if view is None and not remove:
        raise UsageError("search index: give a VIEW to index, or --remove IDS to remove clips from the index in --out")
    if view is not None and remove and not add:
        raise UsageError(
            "search index: --remove with a VIEW needs --add, which updates the index before the clips are removed"
        )
    ids = set(read_ids(remove)) if remove else None
    clips = open_view(view) if view else None
    with options.open_engine(engine, workers, devices) as mapped:
        tree = make_index(out, clips, chosen_model(model), kind=kind, add=add, remove=ids, engine=mapped)
    counts = ", ".join(f"{tree[key]:,} {text}" for key, text in COUNTS.items() if tree[key])
    emit(tree, [f"{out}: {tree['clips']:,} clips, {tree['kind']}, model {tree['model'][:12]}", counts], as_json)


@app.command("query", help="Search an index by a text, a picture, a video, one of its clips, or tags.")
def query(
    index: IndexArgument,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="text in English or Chinese")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="search by a picture: JPEG, PNG, WebP")] = None,
    video: Annotated[Path | None, typer.Option("--video", help="search by a video")] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="CLIP_ID", help="search by a clip of the index")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            help="only clips with this tag (of 'm2raap annotate'); repeatable; alone: the most probable clips first",
        ),
    ] = None,
    tag_p: Annotated[
        float | None,
        typer.Option("--tag-p", min=0, max=1, help="probability from which a clip has a --tag (default: 0.5)"),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="number of hits")] = 5,
    source: Annotated[str | None, typer.Option("--source", help="only clips of this source")] = None,
    min_s: Annotated[
        float | None, typer.Option("--min-s", min=0, help="only clips of at least so many seconds")
    ] = None,
    max_s: Annotated[float | None, typer.Option("--max-s", min=0, help="only clips of at most so many seconds")] = None,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", metavar="DIR", help="write the key-frames of the hits as JPEG files"),
    ] = None,
    model: ModelOption = None,
    as_json: options.JsonOption = False,
) -> None:
    num_queries = sum(value is not None for value in (text, image, video, like))
    if num_queries > 1 or not (num_queries or tag):
        raise UsageError("search query: give exactly one of TEXT, --image, --video and --like, or --tag alone")
    if tag_p is not None and not tag:
        raise UsageError("search query: --tag-p says from which probability a clip has a --tag; give a --tag, too")
    from m2raap.search.backend import HAS_TAG_P, ClipFilter
    from m2raap.search.search import Search, locate, save_frames

    opened = Search(index, chosen_model(model))
    has_tag_p = HAS_TAG_P if tag_p is None else tag_p
    clip_filter = ClipFilter(source, min_s, max_s, tuple(tag or ()), has_tag_p)
    if text is not None:
        hits = opened.by_text(text, top, clip_filter)
    elif image is not None:
        hits = opened.by_picture(_read(image), str(image), top, clip_filter)
    elif video is not None:
        hits = opened.by_video(video, top, clip_filter)
    elif like is not None:
        hits = opened.like(like, top, clip_filter)
    else:
        hits = opened.by_tags(top, clip_filter)
    locate(opened, hits)
    if frames:
        save_frames(opened, hits, frames)
    tree = {"index": str(index), "model": opened.gallery.model_digest, "hits": hits}
    emit(tree, (line for hit in hits for line in _lines(hit, has_tag_p)), as_json)
    if hits and not frames and not as_json:
        talk.log("to write the key-frames as JPEG files, give --frames DIR")
    if not hits and not as_json:
        filters = "--source, --min-s, --max-s and --tag" if tag else "--source, --min-s and --max-s"
        typer.echo(f"no clip of the index satisfies {filters}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror})") from None


def _lines(hit: dict[str, Any], has_tag_p: float) -> Iterator[str]:
    length = f"  {hit['duration_s']:.1f} s long" if hit["duration_s"] is not None else ""
    clip, video = talk.one_line(hit["clip_id"]), talk.one_line(hit["video"])
    yield f"{hit['rank']:>3}  {hit['score']:.4f}  {clip}  {video}{length}"
    end = "its end" if hit["end_s"] is None else f"{hit['end_s']:.2f} s"
    where = f"{hit['start_s']:.2f} s to {end}, best frame at {hit['frames'][0]['time_s']:.2f} s"
    yield f"     video: {talk.one_line(hit['video_path'] or 'not on this machine')}, {where}"
    named = ", ".join(f"{frame.get('path', frame['n'])} at {frame['time_s']:.2f} s" for frame in hit["frames"])
    part = "" if "path" in hit["frames"][0] else f"; in {hit['frames_part'] or 'a folder that no longer exists'}"
    yield f"     key-frames, best first: {talk.one_line(named + part)}"
    for caption in hit["captions"]:
        yield f"     {caption['lang']}: {talk.one_line(caption['text'])[:200]}"
    if tags := [f"{row['tag']} {row['p']:.2f}" for row in hit["tags"] if row["p"] >= has_tag_p]:
        yield f"     tags: {talk.one_line(', '.join(tags))[:200]}"


@app.command("serve", help="Serve an index as a search page in English and Chinese, and as a JSON API.")
def serve(
    index: IndexArgument,
    host: Annotated[
        str,
        typer.Option("--host", help="address to listen on; requests need a token (M2RAAP_TOKEN) unless it is loopback"),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port to listen on; 0: any free one")] = 8000,
    public_host: Annotated[
        list[str] | None,
        typer.Option(
            "--public-host",
            metavar="NAME",
            help="host or HOST:PORT by which a proxy serves the page; requests then need a token; repeatable",
        ),
    ] = None,
    model: ModelOption = None,
) -> None:
    from m2raap.search.server import open_server

    server, url = open_server(index, chosen_model(model), host, port, public_host or ())
    typer.echo(url)  # the only line on stdout, so that a script can read it
    with server, suppress(KeyboardInterrupt):  # Ctrl-C is how a server is stopped
        server.serve_forever()
