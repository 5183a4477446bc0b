"""`data`: bring corpora in, and take curated ones out."""

from __future__ import annotations

import typer

from m2raap.cli import data_export, data_import

app = typer.Typer(help="Bring corpora in, take curated ones out.", no_args_is_help=True, rich_markup_mode=None)
for register in (data_import.register, data_export.register):
    register(app)
