"""`search`: ask an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli import options
from m2raap.cli.index import ModelOption, chosen_model
from m2raap.core import talk
from m2raap.core.errors import M2raapError, UsageError

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="the --out of 'm2raap index'")]


def register(app: typer.Typer) -> None:
    app.command("search", help="Ask an index with a text, a picture, a video or one of its clips.")(search)


def search(
    index: IndexArgument,
    query: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="in English or Chinese")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="ask with a picture: JPEG, PNG, WebP")] = None,
    video: Annotated[Path | None, typer.Option("--video", help="ask with a video")] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="CLIP_ID", help="ask with a clip of the index")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="hits")] = 5,
    source: Annotated[str | None, typer.Option("--source", help="only clips of this source")] = None,
    min_s: Annotated[
        float | None, typer.Option("--min-s", min=0, help="only clips of at least so many seconds")
    ] = None,
    max_s: Annotated[float | None, typer.Option("--max-s", min=0, help="only clips of at most so many seconds")] = None,
    frames: Annotated[
        Path | None, typer.Option("--frames", metavar="DIR", help="write the hits' key-frames there, as JPEG files")
    ] = None,
    model: ModelOption = None,
    as_json: options.JsonOption = False,
) -> None:
    if sum(given is not None for given in (query, image, video, like)) != 1:
        raise UsageError("search: give one of TEXT, --image, --video and --like")
    from m2raap.search.backend import Only
    from m2raap.search.search import Search, locate, save_frames

    opened = Search(index, chosen_model(model))
    only = Only(source, min_s, max_s)
    if query is not None:
        hits = opened.by_text(query, top, only)
    elif image is not None:
        hits = opened.by_picture(_read(image), str(image), top, only)
    elif video is not None:
        hits = opened.by_video(video, top, only)
    else:
        assert like is not None
        hits = opened.like(like, top, only)
    locate(opened, hits)
    if frames:
        save_frames(opened, hits, frames)
    if as_json:
        typer.echo(
            json.dumps({"index": str(index), "model": opened.gallery.model_digest, "hits": hits}, ensure_ascii=False)
        )
        return
    for hit in hits:
        _print(hit)
    if hits and not frames:
        talk.log("--frames DIR writes the key-frames as JPEG files")
    if not hits:
        typer.echo("no clip of the index is let through by --source, --min-s and --max-s")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror})") from None


def _print(hit: dict[str, Any]) -> None:
    length = f"  {hit['duration_s']:.1f} s long" if hit["duration_s"] is not None else ""
    typer.echo(
        f"{hit['rank']:>3}  {hit['score']:.4f}  {talk.one_line(hit['clip_id'])}  {talk.one_line(hit['video'])}{length}"
    )
    end = "its end" if hit["end_s"] is None else f"{hit['end_s']:.2f} s"
    where = f"{hit['start_s']:.2f} s to {end}, best frame at {hit['frames'][0]['time_s']:.2f} s"
    typer.echo(f"     video: {talk.one_line(hit['video_path'] or 'not on this machine')}, {where}")
    named = ", ".join(f"{frame.get('path', frame['n'])} at {frame['time_s']:.2f} s" for frame in hit["frames"])
    part = "" if "path" in hit["frames"][0] else f"; in {hit['frames_part'] or 'a folder that is not there any more'}"
    typer.echo(f"     key-frames, best first: {talk.one_line(named + part)}")
    for caption in hit["captions"]:
        typer.echo(f"     {caption['lang']}: {talk.one_line(caption['text'])[:200]}")
