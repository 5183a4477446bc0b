"""Whether the weights of a model are on this machine, without loading them and without asking a hub."""

from __future__ import annotations

from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.extension import is_extension
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def missing_weights(cfg: BackboneConfig) -> str | None:
    """A sentence on what is missing for loading a backbone, or None where all is there.

    Weights that are not there are downloaded when the backbone is loaded.
    """
    if cfg.model in BUILTIN or is_extension(cfg.family):  # what code from outside needs is not known
        return None
    name = cfg.model.removeprefix("local-dir:").removeprefix("hf-hub:")
    if cfg.model.startswith("local-dir:") or Path(name).is_dir():
        folder = Path(name)
        if any((folder / config).is_file() for config in ("open_clip_config.json", "config.json")):
            return None
        return f"backbone '{cfg.model}': {folder} holds no open_clip_config.json and no config.json"
    if cfg.model.startswith("hf-hub:") or cfg.family == "transformers":
        return None if is_in_hub_cache(name) else _to_download(cfg)
    return _missing_of_open_clip(cfg)


def _missing_of_open_clip(cfg: BackboneConfig) -> str | None:
    import open_clip

    from m2raap.models.open_clip_load import check_name

    try:
        check_name(cfg)
    except M2raapError as error:
        return str(error)
    if cfg.random_init or not cfg.pretrained or Path(cfg.pretrained).is_file():
        return None
    tag = open_clip.get_pretrained_cfg(cfg.model, cfg.pretrained) or {}
    repository = str(tag.get("hf_hub") or "").rpartition("/")[0]
    downloaded = Path("~/.cache/clip").expanduser() / str(tag.get("url") or "").rpartition("/")[2]
    if downloaded.is_file() or (repository and is_in_hub_cache(repository)):
        return None
    return _to_download(cfg)


def _to_download(cfg: BackboneConfig) -> str:
    tag = f" ({cfg.pretrained})" if cfg.pretrained else ""
    return (
        f"backbone '{cfg.model}'{tag}: its weights are not on this machine; the run downloads them first, and stops where the "
        "hub cannot be reached"
    )


def is_in_hub_cache(repository: str) -> bool:
    """Whether the cache of the Hugging Face hub on this machine holds weights of a repository."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    return any(path.suffix in _WEIGHTS for path in folder.rglob("*"))
