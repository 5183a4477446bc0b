"""`serve`: the search page and its API."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from m2raap.cli.index import ModelOption, chosen_model
from m2raap.cli.search import IndexArgument


def register(app: typer.Typer) -> None:
    app.command("serve", help="Serve an index: a search page in English and Chinese, and a JSON API.")(serve)


def serve(
    index: IndexArgument,
    host: Annotated[
        str, typer.Option("--host", help="address to listen on; others than loopback need a token (M2RAAP_TOKEN)")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free")] = 8000,
    public_host: Annotated[
        list[str] | None,
        typer.Option(
            "--public-host",
            metavar="NAME",
            help="host, or HOST:PORT, under which a proxy in front serves it; needs a token; repeatable",
        ),
    ] = None,
    model: ModelOption = None,
) -> None:
    from m2raap.search.server import open_server

    server, url = open_server(index, chosen_model(model), host, port, public_host or ())
    typer.echo(url)  # the only line on stdout, so that a script can read it
    with server, suppress(KeyboardInterrupt):  # which is how one ends a server
        server.serve_forever()
