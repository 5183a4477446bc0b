"""The transformers families: AltCLIP, Chinese-CLIP, MetaCLIP 2, SigLIP and SigLIP2, by name on the hub or from a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json
from m2raap.models.backbone import Backbone, Preprocess
from m2raap.models.config import BackboneConfig
from m2raap.models.hub import loading
from m2raap.models.pooled_place import check_pooled_place
from m2raap.models.preprocess_values import to_preprocess
from m2raap.models.preprocessor_config import read_preprocessor_config
from m2raap.models.text import TransformersText
from m2raap.models.vision_transformers import TransformersVit

# model_type -> context length that the model was trained with, where its tables are longer.
FAMILIES = {"altclip": 77, "chinese_clip": 52, "metaclip_2": 77, "siglip": 64, "siglip2": 64}
# Trained on texts in lower case only (big_vision's `lower`). The tokenizer of SigLIP2's fixed-resolution models, which have
# the model_type siglip, is Gemma's and leaves capitals as they are (google-research/big_vision#187).
LOWER_CASE = ("siglip", "siglip2")
PREPROCESS_NAME = "m2raap_preprocess.json"


def load(cfg: BackboneConfig) -> Backbone:
    """A model in eval mode and fp32. Weights are read from safetensors or with weights_only; no code of a model is run.

    Raises M2raapError where the family is unknown or the model cannot be loaded.
    """
    import transformers

    name = cfg.model.removeprefix("local-dir:").removeprefix("hf-hub:")
    local = Path(name).is_dir()
    if cfg.model.startswith("local-dir:") and not (Path(name) / "config.json").is_file():
        raise M2raapError(f"backbone '{cfg.model}': {name} holds no config.json (transformers' form)")
    try:
        with loading(f"backbone '{cfg.model}'", "local-dir:" if local else name, "transformers"):
            transformers.logging.disable_progress_bar()
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            _check_family(cfg.model, config)
            if cfg.random_init:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(cfg.random_seed)
                    model = transformers.AutoModel.from_config(config, trust_remote_code=False)
            else:
                # Weights that the files lack, or hold in another shape, are random; transformers only logs that.
                model, report = transformers.AutoModel.from_pretrained(
                    name, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
                )
                _refuse_missing(f"backbone '{cfg.model}'", report)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            preprocess_cfg = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False).to_dict()
        subject = f"backbone '{cfg.model}'"
        preprocess = read_preprocessor_config(subject, preprocess_cfg, config.vision_config)
        return _backbone(subject, model, tokenizer, preprocess)
    except M2raapError:
        raise
    except Exception as error:  # the hub clients raise a dozen unrelated types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"backbone '{cfg.model}' cannot be loaded by transformers ({reason}). If this machine cannot reach the model "
            "hub, copy the folder to it (config.json, model.safetensors, tokenizer, preprocessor_config.json) and set "
            "backbone.model to local-dir:/folder"
        ) from error


def from_description(folder: Path) -> Backbone:
    """An untrained model of the shape that a Backbone wrote into the folder, without a hub. Raises M2raapError."""
    import transformers

    try:
        with loading(str(folder), "local-dir:", "transformers"):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            _check_family(str(folder), config)
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            preprocess_cfg = read_json(folder / PREPROCESS_NAME)
        preprocess = to_preprocess(str(folder / PREPROCESS_NAME), preprocess_cfg)
        return _backbone(str(folder), model, tokenizer, preprocess)
    except M2raapError:
        raise
    except Exception as error:  # transformers raises many types for a damaged folder
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"{folder}: the description of the backbone cannot be read ({reason}); copy the folder again"
        ) from error


def _refuse_missing(subject: str, report: Mapping[str, Any]) -> None:
    """Raises M2raapError where the files of a model lack weights. `report`: transformers' loading info.

    Weights that the model does not have are no fault: older files hold buffers that transformers no longer has.
    """
    if other_shape := sorted(report["mismatched_keys"]):
        name, held, needed = other_shape[0]
        raise M2raapError(
            f"{subject}: its files hold {len(other_shape):,} of the model's weights of another shape, {name} among them: "
            f"{list(held)} and not {list(needed)}. Give the config.json and the weights of one model"
        )
    missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if not missing:
        return
    other = f"; they hold {unknown[0]} and {len(unknown) - 1:,} others, which it does not have" if unknown else ""
    raise M2raapError(
        f"{subject}: its files lack {len(missing):,} of the model's weights, {missing[0]} among them{other}. They would be "
        "random, so that the features would be wrong. Copy the model again, or save its state dict without a prefix before "
        "the names (save_pretrained of the model itself)"
    )


def _check_family(display_name: str, config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise M2raapError(
            f"backbone '{display_name}' is a transformers model of type '{config.model_type}'; known: {', '.join(FAMILIES)} "
            "(CLIP itself is in backbone.family open_clip)"
        )
    end = getattr(config.text_config, "eos_token_id", None)
    if config.model_type == "metaclip_2" and not isinstance(end, int):
        raise M2raapError(
            f"backbone '{display_name}', config.json: text_config.eos_token_id is {str(end)[:40]}, and MetaCLIP 2 takes the "
            "feature of a text at the token with that id: give the id of the tokenizer's end token, or copy the model again"
        )


def _backbone(subject: str, model: Any, tokenizer: Any, preprocess: Preprocess) -> Backbone:
    config = model.config
    text = config.text_config
    longest = FAMILIES[config.model_type]
    context = min(longest, text.max_position_embeddings - (2 if config.model_type == "altclip" else 0))
    lower_case = config.model_type in LOWER_CASE
    parts = {"transformers": config.to_diff_dict(), "preprocess": vars(preprocess)}
    # Models without it keep the digest that they have always had.
    description = json.loads(json.dumps(parts | ({"lower_case": True} if lower_case else {}), default=str))

    def write(folder: Path) -> None:
        config.save_pretrained(folder)
        text = json.dumps(vars(preprocess), indent=1, sort_keys=True)
        (folder / PREPROCESS_NAME).write_text(text + "\n", encoding="utf-8")

    model = model.float().eval()
    vision = TransformersVit(model, preprocess.image_size)
    tower = TransformersText(model, tokenizer, context, lower_case)
    check_pooled_place(subject, tower)
    return Backbone(model, vision, tower, preprocess, description, write)
