"""VideoCLIP: a backbone, a temporal module and, optionally, ACG and an interaction, in one folder.

B clips or texts, T frames, L text tokens, X phrases, S = 1 + P tokens, D vision width, E size of the common space.
Folder: model.json (format, settings of the modules, what it was made from), backbone/ (open_clip configuration, tokenizer),
model.safetensors (every weight, fp32). It is loaded without a hub and without the original weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.core.extension import CODE_KEY, code_of, is_extension, refuse_changed
from m2raap.core.files import file_sha256, files_below, inside, read_object
from m2raap.core.records import ModelJson, as_record
from m2raap.core.signed import is_as_signed
from m2raap.models.acg import Acg, Captions
from m2raap.models.backbone import Backbone, weights_digest
from m2raap.models.config import AcgConfig, AnyInteraction, AnyTemporal, InteractionConfig, TemporalConfig
from m2raap.models.families import backbone_from_description
from m2raap.models.interaction.fine import phrase_vectors
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.units import ClipUnits, Need, TextUnits
from m2raap.models.mask import has_frames
from m2raap.models.outside import expect_floats, expect_numbers
from m2raap.models.pooling import pool_raw, pool_unit
from m2raap.models.temporal import build_temporal
from m2raap.models.weights_file import check_finite, save_weights

FORMAT = 4


class VideoCLIP(nn.Module):
    """Backbone -> temporal module -> frame vectors -> pooling (mean, or ACG's weights) -> one unit vector.

    With new modules the video vector is the backbone's mean pooling, except with STAN's start `open` or pool `raw`. An
    interaction scores clips and texts by their parts, in a second stage.
    """

    def __init__(
        self,
        backbone: Backbone,
        temporal: AnyTemporal,
        acg: AcgConfig | None = None,
        interaction: AnyInteraction | None = None,
        seed: int = 0,
    ) -> None:
        """`seed`: of the weights of the new modules. Raises M2raapError for settings that exclude each other."""
        super().__init__()
        if acg is not None and getattr(temporal, "pool", "unit") == "raw":
            raise M2raapError(
                "adapt.temporal.pool raw and adapt.acg both say how frame vectors become one, and ACG's weights are over unit "
                "vectors: set adapt.temporal.pool to unit, or adapt.acg to null"
            )
        self.backbone = backbone
        self.temporal_cfg = temporal
        self.acg_cfg = acg
        self.interaction_cfg = interaction
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.temporal: Any = build_temporal(temporal, backbone)
            self.interaction: Any = build_interaction(interaction, backbone.embed_dim) if interaction else None
        self.acg = Acg(acg) if acg else None
        # Whether layers keep the tokens of patches that the temporal module leaves out, for `patch_vectors`.
        self.keeps_patches = False
        if self.interaction is not None and "patches" in self.interaction.needs:
            self.keep_patches("adapt.interaction")
        # Name -> digest of the source file of what is outside of the package.
        self.code = code_of({"name": temporal.name}, "adapt.temporal")
        if interaction is not None:
            self.code |= code_of(interaction.model_dump(mode="json"), "adapt.interaction")
        self.eval()

    def keep_patches(self, key: str) -> None:
        """Makes `patch_vectors` possible. Raises M2raapError naming `key` where the backbone's patches are not projected."""
        if not self.backbone.vision.has_class:
            raise M2raapError(
                f"{key} compares the patches of frames, and the vision tower of this backbone pools its patches before the "
                "projection, so that they are not in the space of texts: set clip_units to frames, or take a backbone with a "
                "class token"
            )
        self.keeps_patches = True

    @property
    def inside(self) -> bool:
        """Whether the temporal module works inside the vision blocks, so that their outputs cannot be cached."""
        return hasattr(self.temporal, "through")

    def encode_video(
        self, frames_BTCHW: Tensor, mask_BT: Tensor | None = None, captions: Captions | None = None
    ) -> Tensor:
        """Unit video vectors (B, E). mask_BT is False for padding; None: no frame is padding."""
        if mask_BT is None:
            mask_BT = torch.ones(frames_BTCHW.shape[:2], dtype=torch.bool, device=frames_BTCHW.device)
        return self.pool(self.frame_vectors_of_images(frames_BTCHW, mask_BT), mask_BT, captions)

    def frame_vectors_of_images(self, frames_BTCHW: Tensor, mask_BT: Tensor) -> Tensor:
        """Frame vectors (B, T, E), not unit."""
        return self.frame_vectors(self.levels_of_images(frames_BTCHW, mask_BT), mask_BT)

    def levels_of_images(self, frames_BTCHW: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """What `levels_of_prefix` gives, from images."""
        depth = self.temporal.layers_used
        tokens = self.backbone.prefix_tokens(frames_BTCHW.flatten(0, 1), depth).unflatten(0, frames_BTCHW.shape[:2])
        return self.levels_of_prefix(tokens, mask_BT, depth)

    def levels_of_prefix(self, tokens_BTSD: Tensor, mask_BT: Tensor, depth: int) -> list[Tensor]:
        """What the temporal module, or `patch_vectors`, reads of the last layers: (B, T, S', D) each, CLS first.

        tokens_BTSD enter the last `depth` vision layers (`Backbone.prefix_tokens`).
        """
        batch, used = tokens_BTSD.shape[:2], self.temporal.layers_used
        if self.inside:
            if depth > used:
                tokens_BTSD = self.backbone.run_blocks(tokens_BTSD.flatten(0, 1), depth, used).unflatten(0, batch)
            levels = [self.temporal.through(tokens_BTSD, mask_BT)]
        else:
            outputs = self.backbone.suffix_layers(tokens_BTSD.flatten(0, 1), depth, used)
            levels = [level.unflatten(0, batch) for level in outputs]
        return levels if self.keeps_patches else [self.temporal.compact(level) for level in levels]

    def frame_vectors(self, levels: list[Tensor], mask_BT: Tensor) -> Tensor:
        """Frame vectors (B, T, E), not unit, from what `levels_of_prefix` gives."""
        levels, features_BTE = self._read_by_temporal(levels, mask_BT)
        vectors_BTE = self.temporal(levels, features_BTE, mask_BT)
        if is_extension(self.temporal_cfg.name) and not torch.compiler.is_exporting():
            expect_floats(vectors_BTE, features_BTE.shape, self.temporal_cfg.name, "adapt.temporal.name")
        return vectors_BTE

    def inner_vectors(self, levels: list[Tensor], mask_BT: Tensor) -> Tensor:
        """Unit vectors (B, temporal.inner_size) of clips inside a temporal module that has `inner`, in fp32."""
        inner_BD = self.temporal.inner(*self._read_by_temporal(levels, mask_BT), mask_BT).float()
        return F.normalize(F.layer_norm(inner_BD, inner_BD.shape[1:]), dim=1)

    def _read_by_temporal(self, levels: list[Tensor], mask_BT: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the temporal module reads of layers, and projected frame vectors (B, T, E)."""
        assert torch.compiler.is_exporting() or has_frames(mask_BT), "a clip without frames has no vector"
        features_BTE = self.backbone.image_feature_from_cls(levels[-1][:, :, 0])
        return [self.temporal.compact(level) for level in levels] if self.keeps_patches else levels, features_BTE

    def patch_vectors(self, levels: list[Tensor]) -> Tensor:
        """Unit vectors (B, T, P, E) of the patches of the last layer, projected as the class token is. Needs `keep_patches`.

        CLIP was not trained to match patches with texts; MaskCLIP (arXiv 2112.01071) reads them in this way, too.
        """
        assert self.keeps_patches, "the levels are without patches"
        return F.normalize(self.backbone.image_feature_from_cls(levels[-1][:, :, 1:]), dim=-1)

    def pool(self, vectors_BTE: Tensor, mask_BT: Tensor, captions: Captions | None = None) -> Tensor:
        """Unit video vectors (B, E) from frame vectors (B, T, E), by ACG or as the mean."""
        if self.acg is not None:
            return self.acg(vectors_BTE, mask_BT, captions)
        return (pool_raw if getattr(self.temporal_cfg, "pool", "unit") == "raw" else pool_unit)(vectors_BTE, mask_BT)

    def gates(self) -> dict[str, float]:
        """Learnt scalars, and norms of matrices, of the new modules, for the log. Most of them are 0 in a new model."""
        return {name: float(value) for name, value in self.gate_tensors().items()}

    def gate_tensors(self) -> dict[str, float | Tensor]:
        """As `gates`; what a module has as a tensor stays one, so that nothing waits for the device."""
        acg = {f"acg_{name}": value for name, value in self.acg.gates().items()} if self.acg else {}
        gates = self.temporal.gates()
        if is_extension(self.temporal_cfg.name):
            gates = expect_numbers(gates, self.temporal_cfg.name, "adapt.temporal.name")
        scores = self.interaction.gates() if self.interaction is not None else {}
        return gates | acg | {f"interaction_{name}": value for name, value in scores.items()}

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit text vectors (B, E)."""
        return self.backbone.encode_text(tokens_BL)

    def text_units(self, tokens_BL: Tensor, needs: Collection[Need], spans_BX2: Tensor | None = None) -> TextUnits:
        """What an interaction with these `needs` reads of texts. spans_BX2: of their phrases, from `phrases.token_spans`."""
        if not {"tokens", "phrases"} & set(needs):
            return TextUnits(self.encode_text(tokens_BL))
        pooled_BE, tokens_BLE, mask_BL = self.backbone.encode_text_tokens(tokens_BL)
        units = TextUnits(pooled_BE)
        if "tokens" in needs:
            units = replace(units, tokens_ALE=tokens_BLE, token_mask_AL=mask_BL)
        if "phrases" in needs:
            assert spans_BX2 is not None, "the spans of phrases are needed"
            phrases_BXE, phrase_mask_BX = phrase_vectors(tokens_BLE, spans_BX2)
            units = replace(units, phrases_AXE=phrases_BXE, phrase_mask_AX=phrase_mask_BX)
        return units

    def clip_units(
        self, levels: list[Tensor], mask_BT: Tensor, captions: Captions | None, needs: Collection[Need]
    ) -> ClipUnits:
        """What an interaction with these `needs` reads of clips, in fp32. `levels`: what the temporal module reads."""
        vectors_BTE = self.frame_vectors(levels, mask_BT)
        video_BE = self.pool(vectors_BTE, mask_BT, captions).float()
        read = captions if captions is not None and "captions" in needs else (None, None)
        patches_BTPE = self.patch_vectors(levels) if "patches" in needs else None
        return ClipUnits(video_BE, F.normalize(vectors_BTE.float(), dim=-1), mask_BT, *read, patches_BTPE)

    @property
    def digest(self) -> str:
        """32 hex digits over settings and all weights, as they are now."""
        described = self.backbone.description | self.backbone.code | self._module_settings()
        return weights_digest(described, self.state_dict().items())

    def _module_settings(self) -> dict[str, Any]:
        acg = self.acg_cfg.model_dump(mode="json") if self.acg_cfg else None
        interaction = self.interaction_cfg.model_dump(mode="json") if self.interaction_cfg else None
        code = {CODE_KEY: self.code} if self.code else {}
        return {"temporal": self.temporal_cfg.model_dump(mode="json"), "acg": acg, "interaction": interaction} | code

    def save(self, folder: Path, made_from: dict[str, Any] | None = None) -> None:
        """Writes the folder. `made_from` is any JSON about the origin of the weights (settings, steps)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.write_description(folder / "backbone")
        weights = {name: t.detach().cpu().float().contiguous().clone() for name, t in self.state_dict().items()}
        save_weights(weights, folder / "model.safetensors")
        model_json = {
            "format": FORMAT,
            **self._module_settings(),
            "made_from": made_from or {},
            "digest": self.digest,
            "files": {name: file_sha256(folder / name) for name in files_below(folder, "backbone")},
        }
        (folder / "model.json").write_text(
            json.dumps(model_json, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> VideoCLIP:
        """The model of a folder that `save` wrote, in eval mode. Raises M2raapError naming folder and fault."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        model_json_path, weights_path = folder / "model.json", folder / "model.safetensors"
        for path in (model_json_path, weights_path):
            if not path.is_file():
                raise M2raapError(f"{folder} holds no {path.name}: give a model folder that m2raap saved")
        tree = read_object(model_json_path)
        if tree.get("format") != FORMAT:
            raise M2raapError(
                f"{model_json_path}: has format {str(tree.get('format'))[:40]}, and this m2raap reads format {FORMAT}: adapt "
                "again"
            )
        model_json = as_record(ModelJson, tree, model_json_path)
        try:
            temporal = TypeAdapter(TemporalConfig).validate_python(model_json["temporal"])
            acg = AcgConfig.model_validate(model_json["acg"]) if model_json["acg"] else None
            interaction = TypeAdapter(InteractionConfig).validate_python(model_json["interaction"])
            weights = load_file(weights_path)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise M2raapError(f"{folder}: the model cannot be read ({error}); copy it again, or adapt again") from None
        recorded = model_json.get("code", {})
        for key, settings in (("temporal.name", temporal.name), ("interaction", model_json["interaction"])):
            names = code_of(settings, f"{model_json_path}: {key}")
            refuse_changed({name: recorded.get(name, "none") for name in names}, f"{model_json_path}: {key}")
        for name, expected in model_json.get("files", {}).items():
            if not is_as_signed(inside(folder, name), expected):
                raise M2raapError(
                    f"{folder / name}: is missing or differs from its digest in model.json: copy the model again, or adapt again"
                )
        model = cls(backbone_from_description(folder / "backbone"), temporal, acg, interaction)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise M2raapError(f"{weights_path} does not fit model.json: {' '.join(str(error).split())[:300]}") from None
        check_finite(str(weights_path), model, "copy it again, or adapt again")
        if model.digest != model_json["digest"]:
            raise M2raapError(
                f"{folder}: weights or settings are not those that the digest of model.json was made of: copy it again, or "
                "adapt again"
            )
        return model
