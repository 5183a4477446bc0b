"""README.md of a hub folder: what the model is, what it was made from, its figures, how to load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NotRequired

import yaml
from typing_extensions import TypedDict

from m2raap.core.errors import M2raapError
from m2raap.core.records import as_record
from m2raap.models.builtin import BUILTIN
from m2raap.retrieval.significance import bounds_text

if TYPE_CHECKING:
    from m2raap.export.measure import Measured
    from m2raap.models.video_clip import VideoCLIP


class _Backbone(TypedDict):
    model: str
    pretrained: NotRequired[str | None]
    random_init: NotRequired[bool]


class _Adapt(TypedDict):
    backbone: NotRequired[_Backbone]
    langs: NotRequired[list[str]]
    batch_size: NotRequired[int]
    num_frames: NotRequired[int]


class _MadeFrom(TypedDict):
    """What a card reads of the key made_from of model.json, in which others may write what they like."""

    adapt: NotRequired[_Adapt]
    backbone: NotRequired[_Backbone]
    steps: NotRequired[int]
    kept_step: NotRequired[int]


def model_card(clip: VideoCLIP, saved: dict[str, Any], licence: str | None, measured: Measured | None) -> str:
    """`saved` is model.json. Raises M2raapError where the licence of the weights is neither given nor known, and for a key of
    made_from that is damaged."""
    made_from = as_record(_MadeFrom, saved["made_from"], "model.json: made_from")
    adapt = made_from.get("adapt")
    backbone = (adapt or made_from).get("backbone")
    name = backbone["model"] if backbone else ""
    if licence is None and name in BUILTIN:
        licence = "apache-2.0"
    if licence is None:
        raise M2raapError(
            f"a model card names a licence, and that of the weights of '{name or 'this backbone'}' is unknown: "
            "give --licence (for example mit)"
        )
    langs = (adapt.get("langs") if adapt else None) or ["en"]
    head: dict[str, Any] = {
        "license": licence,
        "language": langs,
        "library_name": "m2raap",
        "tags": ["video-text-retrieval", "clip", clip.temporal_cfg.name, *(["acg"] if clip.acg_cfg else [])],
    }
    if name.startswith("hf-hub:"):
        head["base_model"] = name.removeprefix("hf-hub:")
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# Video-text retrieval model",
        "",
    ]
    pretrained = f" ({backbone.get('pretrained')})" if backbone and backbone.get("pretrained") else ""
    temporal = ", ".join(f"{key} {value}" for key, value in clip.temporal_cfg.model_dump(mode="json").items())
    lines += [
        f"- backbone: {name or 'not recorded'}{pretrained}, {clip.backbone.preprocess.image_size} px, vectors of "
        f"{clip.backbone.embed_dim}",
        f"- temporal module: {temporal}",
        f"- caption-guided weights over frames: {clip.acg_cfg.model_dump(mode='json') if clip.acg_cfg else 'none'}",
        f"- interaction, for a second stage: {clip.interaction_cfg.model_dump(mode='json') if clip.interaction_cfg else 'none'}",
        f"- weights: {sum(p.numel() for p in clip.parameters()) / 1e6:.1f} M, of them "
        f"{sum(p.numel() for p in clip.temporal.parameters()) / 1e6:.1f} M in the temporal module",
        f"- gates: {json.dumps({name: round(value, 4) for name, value in clip.gates().items()})}",
        f"- digest: {clip.digest}",
    ]
    if backbone and backbone.get("random_init"):
        lines.append("- **the backbone's weights are random: this model shows that the code runs, and nothing else**")
    if adapt:
        steps, kept = (made_from.get(key, "?") for key in ("steps", "kept_step"))
        pairs, frames = (adapt.get(key, "?") for key in ("batch_size", "num_frames"))
        lines.append(f"- trained {steps} steps of {pairs} pairs, {frames} frames a clip; kept: step {kept}")
    lines += ["", "## Figures", ""]
    lines += _figures(measured, name)
    lines += [
        "", "## Use", "", "```python", "import m2raap", "",
        'model = m2raap.load("THIS_FOLDER")', "tokens = model.backbone.tokenize([\"a dog runs\"])",
        "text = model.encode_text(tokens)                    # (1, E), unit",
        "video = model.encode_video(frames_BTCHW, mask_BT)    # (B, E), unit; frames as model.backbone.preprocess says",
        "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _figures(measured: Measured | None, name: str) -> list[str]:
    if measured is None:
        return ["Not measured when this card was written."]
    where = (
        f"Benchmark `{measured.benchmark}`, R@1 in percent; 95% interval by cluster bootstrap over clips, "
        "Wilson's where all hit or all miss."
    )
    tiny = (
        " The tiny model of m2raap was trained on drawings only: do not compare these figures with those of real models."
        if name in BUILTIN
        else ""
    )
    table = ["| language | direction | queries | R@1 (95%) |", "|---|---|---|---|"]
    for row in measured.r1():
        table.append(
            f"| {row['lang']} | {row['direction']} | {row['queries']:,} | {row['r1']:.1f} "
            f"({bounds_text((row['lo'], row['hi']))}) |"
        )
    return [where + tiny, "", *table]
