"""card: the dataset card of a curated corpus in Markdown, generated from what its stages recorded.

Sources, licences and model names are untrusted text: they are escaped, so that no markup in them is rendered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2raap.core import tombstones
from m2raap.core.config import flat
from m2raap.core.errors import M2raapError
from m2raap.core.signed import read_manifest
from m2raap.core.tables import Clip, Row, read_part
from m2raap.core.view import View
from m2raap.export.corpus import curated_steps, curated_view
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.stages import reasons
from m2raap.stages.tag_counts import TagCounts
from m2raap.stages.tag_signals import LEAST_P

# Characters that make markup, a link or an address inside a line, or a heading or a list at its beginning. A number, such as
# 0.5 or -3, and a network address are no markup: a list begins with '1. ' or '- '.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~&@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^[#+=-](?![\d.]))", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^(\d+)([.)])(?!\S)")
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_ABOUT_PEOPLE = ("nsfw", "watermark", "face", "person", "pii", "personal")


def plain(value: Any, max_chars: int = 120) -> str:
    """Untrusted text with escaped markup, without line breaks and hidden characters, cut to `max_chars`."""
    text = _HIDDEN.sub(" ", str(value))
    text = text if len(text) <= max_chars else text[: max_chars - 1] + "…"
    return _LIST_NUMBER.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))


@dataclass
class _Tally:
    """Counts of the rows that are left and of dropped rows, and of the clips before curation by source."""

    clips: Counter[str] = field(default_factory=Counter)  # number of clips by split
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources_before: Counter[tuple[str, str]] = field(default_factory=Counter)
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)  # number of texts by (language, origin)
    producers: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str, str, str, str, str]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    signals: set[str] = field(default_factory=set)
    tags: TagCounts = field(default_factory=TagCounts)
    seconds: float = 0.0  # length of the clips whose length is known
    timed: int = 0  # number of these clips


def dataset_card(path: Path) -> str:
    """The card of a run. Raises M2raapError where no data stage is finished."""
    run = RunFolder.open(path)
    steps = curated_steps(run)
    if not steps:
        raise M2raapError(f"{path}: no data stage of this run is finished; finish one before you write the card")
    langs = run.recipe.langs
    view = curated_view(path, langs)
    tally = _count(view, steps)
    recipe = run.tree["recipe"]
    parts = [
        f"# {plain(recipe.get('title') or recipe['name'])}",
        _summary(view, tally, recipe),
        _sources(tally),
        _funnel(steps),
        _dropped(tally),
        _texts(tally),
        _tags(tally.tags),
        _rules(steps),
        _models(steps),
        _libraries(steps),
        _left_machine(steps),
        _limits(view, tally, recipe),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _count(view: View, steps: list[Step]) -> _Tally:
    tally = _Tally()
    base = replace(view, folders=())
    for index in range(view.num_parts):
        part = view.part(index, ("texts", "signals"))
        tally.sources_before.update(_source(row) for row in base.part(index, ()).clips)
        for clip in part.clips:
            tally.clips[clip["split"]] += 1
            tally.sources[_source(clip)] += 1
            signals = part.signals.get(clip["clip_id"], {})
            tally.signals |= set(signals)
            tally.tags.add(signals)
            if seconds := signals.get("duration_s"):
                start, end = clip["start_s"] or 0.0, clip["end_s"]
                tally.seconds += (end - start) if end is not None else max(0.0, seconds - start)
                tally.timed += 1
        for text in part.texts:
            tally.texts[text["lang"], text["origin"]] += 1
            tally.producers[text["origin"], text["producer"] or "not stated"] += 1
        for step in steps:
            for row in read_part(step.folder, "dropped", index):
                what = "texts" if row["text_id"] else "clips"
                threshold = "" if row["threshold"] is None else f"{row['threshold']:g}"
                tally.dropped[
                    step.stage,
                    row["reason"],
                    what,
                    row["detail"] if threshold else "",
                    threshold,
                    row["rule_version"] or "",
                ] += 1
            for row in read_part(step.folder, "signals", index):
                for name in ("caption_outcome", "rewrite_outcome"):
                    if row.get(name):
                        tally.outcomes[name.removesuffix("_outcome"), row[name]] += 1
    return tally


def _source(clip: Clip) -> tuple[str, str]:
    return clip["source"] or "not stated", clip["licence"] or "not stated"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table. Cells are escaped; numbers get thousands separators."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    lines += [
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else plain(cell) for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def _summary(view: View, tally: _Tally, recipe: Row) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in sorted(tally.clips.items()))
    by_lang = Counter[str]()
    num_aux = 0
    for (lang, origin), count in tally.texts.items():
        if origin == "aux":
            num_aux += count
        else:
            by_lang[lang] += count
    texts = ", ".join(f"{count:,} {lang}" for lang, count in sorted(by_lang.items()))
    aux = f" and {num_aux:,} auxiliary captions of frames" if num_aux else ""
    hours = f" About {tally.seconds / 3600:,.2f} hours of video." if tally.timed == sum(tally.clips.values()) else ""
    forgotten = sum(row.was_here for row in tombstones.read(view.corpus_path).by_id.values())
    lines = [
        f"{sum(tally.clips.values()):,} clips ({splits}) with {sum(by_lang.values()):,} texts ({texts}){aux}.{hours}",
        f"Made by m2raap {version('m2raap')} with the recipe {plain(recipe['name'])}, seed {recipe.get('seed', 0)}, from the "
        f"corpus {view.corpus.digest}; this state is {view.digest}.",
    ]
    if forgotten:
        lines.append(f"{forgotten:,} clips were removed on request and stay out of later imports.")
    return "\n\n".join(lines)


def _sources(tally: _Tally) -> str:
    rows = [(*key, before, tally.sources[key]) for key, before in sorted(tally.sources_before.items())]
    return "## Sources and licences\n\n" + _table(("source", "licence", "clips before", "clips kept"), rows)


def _funnel(steps: list[Step]) -> str:
    rows = []
    for step in steps:
        counts = read_manifest(step.folder)["counts"]
        for what in ("clips", "texts"):
            dropped = sum(n for key, n in counts.items() if key.startswith(f"{what}_dropped:"))
            rows.append((step.stage, what, *(counts.get(f"{what}_{name}", 0) for name in ("in", "added")), dropped,
                         counts.get(f"{what}_out", 0)))  # fmt: skip
    return "## Stages\n\n" + _table(("stage", "of", "in", "added", "dropped", "out"), rows)


def _dropped(tally: _Tally) -> str:
    rows = [
        (stage, reason, what, count, f"{signal} {threshold}".strip(), version_, reasons().get(reason, ""))
        for (stage, reason, what, signal, threshold, version_), count in sorted(tally.dropped.items())
    ]
    if not rows:
        return "## Dropped\n\nNothing."
    return "## Dropped\n\n" + _table(("stage", "reason", "of", "rows", "threshold", "rule", "meaning"), rows)


def _texts(tally: _Tally) -> str:
    kinds = [(lang, origin, count) for (lang, origin), count in sorted(tally.texts.items())]
    makers = [(origin, producer, count) for (origin, producer), count in sorted(tally.producers.items())]
    parts = ["## Texts", _table(("language", "origin", "texts"), kinds), _table(("origin", "made by", "texts"), makers)]
    if tally.outcomes:
        rows = [(stage, outcome, count) for (stage, outcome), count in sorted(tally.outcomes.items())]
        parts.append(_table(("stage", "outcome", "texts"), rows))
    return "\n\n".join(parts)


def _tags(tags: TagCounts) -> str:
    """The most frequent tags; '' where no clip has a tag."""
    ordered = tags.ordered()
    if not ordered:
        return ""
    rows = [(tag, tags.clips[tag], f"{tags.clips[tag] / tags.num_clips:.1%}") for tag in ordered[:_MOST_TAGS]]
    left_out = f", and the {_MOST_TAGS} most frequent of {len(ordered):,} tags" if len(ordered) > _MOST_TAGS else ""
    about = (
        f"Clips to which a tagger (the stage annotate) gives a tag with p of at least {LEAST_P:g}: {tags.num_with_tags:,} of "
        f"{tags.num_clips:,}{left_out}. Nobody has checked these tags."
    )
    return f"## Tags\n\n{about}\n\n" + _table(("tag", "clips", "share"), rows)


_MOST_TAGS = 30


def _settings(tree: Any) -> list[tuple[str, Any]]:
    """(dotted key, value for a reader) of all settings in a mapping."""
    return [
        (key, "off" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else value)
        for key, value in flat(tree).items()
    ]


def _rules(steps: list[Step]) -> str:
    rows = []
    for step in steps:
        manifest = read_manifest(step.folder)
        settings = _settings(manifest["settings"]["apply"])
        rows += [(f"{step.stage}/{manifest['version']}", key, str(value)) for key, value in settings if key]
    return "## Rules and thresholds\n\n" + _table(("stage/version", "setting", "value"), rows) if rows else ""


def _models(steps: list[Step]) -> str:
    rows = []
    for step in steps:
        manifest = read_manifest(step.folder)
        score = manifest["settings"]["score"]
        named = [
            (key, value) for key, value in _settings(score) if _NAMES_MODEL.search(key) and value not in ("", "off")
        ]
        named += sorted(manifest["models"].items())
        rows += [(step.stage, key, str(value)) for key, value in named]
    return "## Models and prompts\n\n" + _table(("stage", "what", "name or digest"), rows) if rows else ""


_NAMES_MODEL = re.compile(r"(^|\.)(name|model|pretrained|revision|words|base_url)$|digest|prompt")


def _libraries(steps: list[Step]) -> str:
    """The versions that made the stages, of which one line stands for all stages with the same versions."""
    stages: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for step in steps:
        versions = tuple(sorted(read_manifest(step.folder).get("libraries", {}).items()))
        stages.setdefault(versions, []).append(step.stage)
    rows = [(", ".join(names), *package) for versions, names in stages.items() for package in versions]
    return "## Libraries\n\n" + _table(("stages", "package", "version"), rows) if rows else ""


def _left_machine(steps: list[Step]) -> str:
    rows = []
    for step in steps:
        for key, count in read_manifest(step.folder)["counts"].items():
            what, sent, host = key.partition("_sent_to:")
            if sent:
                rows.append((step.stage, what, host, count))
    title = "## Sent to models over the network\n\n"
    return title + (
        _table(("stage", "what", "server", "number"), rows) if rows else "No text and no frame left this machine."
    )


def _limits(view: View, tally: _Tally, recipe: Row) -> str:
    lines = []
    unlicensed = sum(count for (_, licence), count in tally.sources.items() if licence == "not stated")
    if unlicensed:
        lines.append(
            f"{unlicensed:,} of {sum(tally.clips.values()):,} clips state no licence: find it out before you share them."
        )
    model = recipe.get("backbone", {}).get("model", "builtin:tiny")
    if "sim_percentile" in tally.signals or any(reason == "mismatch" for _, reason, *_ in tally.dropped):
        lines.append(
            f"Whether image and text belong together was judged by the backbone {plain(model)}: its errors remain in this corpus."
        )
    if model == "builtin:tiny":
        lines.append(
            "The tiny model of the package was trained on drawings of coloured shapes: its scores of real video mean little, "
            "and so do tags that come from its vectors."
        )
    if view.corpus.source.get("importer") == "world":
        lines.append("Synthetic world: drawings of coloured shapes, no real video.")
    if not any(word in name for name in tally.signals for word in _ABOUT_PEOPLE):
        lines.append(
            "These clips were not scored for nudity, watermarks or personal data; the filter can use such scores."
        )
    num_generated = sum(count for (_, origin), count in tally.texts.items() if origin != "raw")
    if num_generated:
        share = num_generated / sum(tally.texts.values())
        lines.append(f"{share:.0%} of the texts were written or changed by a program or a model, see Texts.")
    if any(origin == "aux" for _, origin in tally.texts):
        lines.append("Texts of the origin aux describe single frames, and so no motion.")
    lines.append("How many drops of each rule are wrong is unknown until people label a sheet of `m2raap data audit`.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines)
