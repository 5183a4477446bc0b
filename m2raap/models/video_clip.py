"""VideoCLIP: a backbone and a temporal module; clips and texts to unit vectors; one folder holds all of it.

B clips or texts, T frames, L text tokens, S = 1 + P tokens, D vision width, E size of the common space.
Folder: model.json (format, temporal settings, what it was made from), backbone/ (open_clip configuration, tokenizer),
model.safetensors (every weight, fp32). Nothing else is needed to load it: no hub, no original weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone, backbone_from_description, weights_digest
from m2raap.models.config import MeanConfig, SeqTransfConfig, StanConfig, TemporalConfig
from m2raap.models.pooling import pool_unit
from m2raap.models.temporal import build_temporal

FORMAT = 1


class VideoCLIP(nn.Module):
    """With a new temporal module the video vector is the backbone's mean pooling (but for STAN's `open` and `raw`)."""

    def __init__(self, backbone: Backbone, temporal: MeanConfig | SeqTransfConfig | StanConfig, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal_cfg = temporal
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.temporal: Any = build_temporal(temporal, backbone)
        self.eval()

    def encode_video(self, frames_BTCHW: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Unit video vectors (B, E). mask_BT is False where a clip has no such frame; None: all there."""
        depth = self.temporal.layers_used
        tokens = self.backbone.prefix_tokens(frames_BTCHW.flatten(0, 1), depth)
        return self.encode_prefix(tokens.unflatten(0, frames_BTCHW.shape[:2]), mask_BT, depth)

    def encode_prefix(self, tokens_BTSD: Tensor, mask_BT: Tensor | None, depth: int) -> Tensor:
        """Unit video vectors from the tokens that enter the last `depth` vision layers (`Backbone.prefix_tokens`)."""
        return self.encode_levels(self.levels_of_prefix(tokens_BTSD, depth), mask_BT)

    def encode_layers(self, layer_tokens: list[Tensor], mask_BT: Tensor | None = None) -> Tensor:
        """Unit video vectors from the outputs (B, T, S, D) of the last vision layers, as many as the module reads."""
        return self.encode_levels([self.temporal.compact(level) for level in layer_tokens], mask_BT)

    def levels_of_prefix(self, tokens_BTSD: Tensor, depth: int) -> list[Tensor]:
        """What the temporal module reads of the last layers: (B, T, S', D) each, CLS first."""
        levels = self.backbone.suffix_layers(tokens_BTSD.flatten(0, 1), depth, self.temporal.layers_used)
        return [self.temporal.compact(level.unflatten(0, tokens_BTSD.shape[:2])) for level in levels]

    def encode_levels(self, levels: list[Tensor], mask_BT: Tensor | None) -> Tensor:
        """Unit video vectors from what `levels_of_prefix` gives."""
        if mask_BT is None:
            mask_BT = torch.ones(levels[-1].shape[:2], dtype=torch.bool, device=levels[-1].device)
        assert bool(mask_BT.any(1).all()), "a clip without frames has no vector"
        features_BTE = self.backbone.image_feature_from_cls(levels[-1][:, :, 0])
        return self.temporal(levels, features_BTE, mask_BT)

    def encode_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """Unit frame vectors (B, T, E) of the backbone, without the temporal module."""
        return self.backbone.encode_image(frames_BTCHW.flatten(0, 1)).unflatten(0, frames_BTCHW.shape[:2])

    def pool_frames(self, features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Mean pooling of frame vectors: what `encode_video` gives with a new temporal module."""
        return pool_unit(features_BTE, mask_BT)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit text vectors (B, E)."""
        return self.backbone.encode_text(tokens_BL)

    @property
    def digest(self) -> str:
        """32 hex digits over settings and all weights, as they are now."""
        described = self.backbone.description | {"temporal": self.temporal_cfg.model_dump(mode="json")}
        return weights_digest(described, self.state_dict().items())

    def save(self, folder: Path, made_from: dict[str, Any] | None = None) -> None:
        """Write the folder; `made_from` is free JSON for the reader (recipe, steps, scores)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.write_description(folder / "backbone")
        weights = {name: t.detach().cpu().float().contiguous().clone() for name, t in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        card = {
            "format": FORMAT,
            "temporal": self.temporal_cfg.model_dump(mode="json"),
            "made_from": made_from or {},
            "digest": self.digest,
        }
        (folder / "model.json").write_text(
            json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> VideoCLIP:
        """The model of a folder that `save` wrote, in eval mode. Raises M2raapError naming folder and fault."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        card_path, weights_path = folder / "model.json", folder / "model.safetensors"
        for path in (card_path, weights_path):
            if not path.is_file():
                raise M2raapError(f"{folder} holds no {path.name}: it is no model that m2raap saved")
        try:
            card = json.loads(card_path.read_text(encoding="utf-8"))
            if card["format"] != FORMAT:
                raise M2raapError(f"{card_path}: format {card['format']}, this m2raap reads format {FORMAT}")
            temporal = TypeAdapter(TemporalConfig).validate_python(card["temporal"])
            weights = load_file(weights_path)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise M2raapError(f"{folder}: the model cannot be read: {error}") from None
        model = cls(backbone_from_description(folder / "backbone"), temporal)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise M2raapError(f"{weights_path} does not fit model.json: {' '.join(str(error).split())[:300]}") from None
        return model
