"""Exports an adapted model: its towers as an open_clip folder, its two halves as ONNX, or the whole as a hub folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.core.errors import M2raapError
from m2raap.core.exports import new_folder
from m2raap.core.files import write_json
from m2raap.core.records import ModelJson, read_record
from m2raap.core.view import View
from m2raap.export.measure import Measured, measure
from m2raap.export.model_card import model_card
from m2raap.retrieval.significance import bounds_text, change_text

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

FILE = "m2raap_export.json"


def export_model(
    model: Path, to: str, out: Path, bench: View | None = None, num_frames: int = 8, licence: str | None = None
) -> dict[str, Any]:
    """Writes `out` whole or not at all and returns its m2raap_export.json.

    `bench`: the stored frames of a benchmark, on which R@1 of the model is measured, and R@1 of the export where that is
    another model (the towers without temporal module). Raises M2raapError for an unknown target, or a model that cannot be
    exported to it.
    """
    from m2raap.models.video_clip import VideoCLIP

    if to not in TARGETS:
        raise M2raapError(f"--to {to}: is no target; give one of {', '.join(TARGETS)}")
    clip = VideoCLIP.load(model)
    about: dict[str, Any] = {"kind": "model export", "to": to, "model": clip.digest}
    with new_folder(out) as draft:
        measured = measure(bench, clip) if bench else None
        clip.cpu()  # measuring has moved it to a GPU, and exports are written on the CPU
        if measured:
            about |= {"benchmark": measured.benchmark, "adapted": measured.r1()}
        about |= TARGETS[to](_Job(model, clip, draft, bench, measured, num_frames, licence))
        about["sha256"] = {
            str(path.relative_to(draft)): _sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()
        }
        write_json(draft / FILE, about)
    return about


@dataclass(frozen=True)
class _Job:
    """One export: the model folder `source`, its model, the folder to fill, and the options of `export_model`."""

    source: Path
    clip: VideoCLIP
    draft: Path
    bench: View | None
    measured: Measured | None
    num_frames: int
    licence: str | None


def _to_open_clip(job: _Job) -> dict[str, Any]:
    """The backbone's adapted towers as `local-dir:` loads them; temporal module and ACG are left out."""
    from m2raap.models.backbone import FAMILY_NAME
    from m2raap.models.config import BackboneConfig, MeanConfig
    from m2raap.models.families import load_backbone
    from m2raap.models.text import OpenClipText
    from m2raap.models.video_clip import VideoCLIP
    from m2raap.models.weights_file import save_weights

    backbone = job.clip.backbone
    if not isinstance(backbone.text, OpenClipText):
        raise M2raapError(
            f"{job.source}: its backbone comes from transformers, and open_clip cannot load it: give --to hub or --to onnx"
        )
    backbone.write_description(job.draft)
    (job.draft / FAMILY_NAME).unlink(missing_ok=True)  # open_clip does not read it
    weights = {name: value.detach().contiguous().clone() for name, value in backbone.clip.state_dict().items()}
    save_weights(weights, job.draft / "open_clip_model.safetensors")
    reloaded = load_backbone(BackboneConfig(model=f"local-dir:{job.draft}"))
    changed = [name for name, value in reloaded.clip.state_dict().items() if not value.equal(weights[name].to(value))]
    if changed:
        raise M2raapError(
            f"{job.source}: open_clip loads other weights than were written ({changed[0]}); give --to hub or --to onnx"
        )
    left = [job.clip.temporal_cfg.name] if job.clip.temporal_cfg.name != "mean" else []
    left += [*(["acg"] if job.clip.acg else []), *_interaction_left_out(job.clip)]
    about: dict[str, Any] = {"left_out": left}
    if job.bench and job.measured:
        of_towers = measure(job.bench, VideoCLIP(reloaded, MeanConfig()))
        about |= {"exported": of_towers.r1(), "exported_minus_adapted": of_towers.minus(job.measured, 0)}
    return about


def _interaction_left_out(clip: VideoCLIP) -> list[str]:
    """A second stage scores pairs, and these formats give vectors."""
    return [f"interaction {clip.interaction_cfg.name}"] if clip.interaction_cfg else []


def _to_onnx(job: _Job) -> dict[str, Any]:
    from dataclasses import asdict

    from m2raap.models.onnx_export import PARITY, export_onnx

    differences = export_onnx(job.clip, job.draft, job.num_frames)
    job.clip.backbone.text.save_tokenizer(job.draft)
    return {
        "left_out": _interaction_left_out(job.clip),
        "frames": job.num_frames,
        "context_length": job.clip.backbone.context_length,
        "embed_dim": job.clip.backbone.embed_dim,
        "preprocess": asdict(job.clip.backbone.preprocess),
        "largest_difference": differences,
        "allowed_difference": PARITY,
    }


def _to_hub(job: _Job) -> dict[str, Any]:
    """The model folder with a card, as `huggingface-cli upload` takes it. Nothing is uploaded."""
    about: dict[str, Any] = {**read_record(ModelJson, job.source / "model.json")}
    card = model_card(job.clip, about, job.licence, job.measured)
    job.clip.save(job.draft, about["made_from"])  # only the files of the model, without other files of its folder
    (job.draft / "README.md").write_text(card, encoding="utf-8")
    # As the hub's client writes it.
    (job.draft / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", encoding="utf-8")
    return {"upload": "huggingface-cli upload ORG/NAME FOLDER"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TARGETS: dict[str, Callable[[_Job], dict[str, Any]]] = {
    "open_clip": _to_open_clip,
    "onnx": _to_onnx,
    "hub": _to_hub,
}


def export_lines(about: dict[str, Any], out: Path) -> list[str]:
    """The lines that the command prints about an export."""
    lines = [f"{out}: {about['to']}, {len(about['sha256'])} files"]
    if about.get("left_out"):
        pooled = "; frames are mean-pooled instead" if about["to"] == "open_clip" else ""
        lines.append(f"left out, since {about['to']} cannot store it: {', '.join(about['left_out'])}{pooled}")
    for half, difference in about.get("largest_difference", {}).items():
        lines.append(
            f"{half}.onnx: differs from PyTorch by {difference:.1e} at most (allowed {about['allowed_difference']:.0e})"
        )
    for who in ("adapted", "exported"):
        for row in about.get(who, ()):
            lines.append(
                f"{who} on {about['benchmark']}, {row['lang']} {row['direction']}: R@1 {row['r1']:.1f} "
                f"({bounds_text((row['lo'], row['hi']))}), {row['queries']:,} queries"
            )
    for row in about.get("exported_minus_adapted", ()):
        lines.append(
            f"exported minus adapted, {row['lang']} {row['direction']}: {row['diff']:+.1f} ({change_text(row['lo'], row['hi'])})"
        )
    if "upload" in about:
        lines.append(f"to upload it: {about['upload'].replace('FOLDER', str(out))}")
    return lines
