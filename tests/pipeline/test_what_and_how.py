"""Of every key of every stage: one that says how is in no digest, and one that says what is in one."""

from __future__ import annotations

import types
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from m2raap.cli.main import main  # noqa: F401  # the stages are loaded as the command line loads them
from m2raap.core.config import HOW, build, digest, merge, phase_of, set_keys
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_stage
from m2raap.core.stage import DataStage, Stage, StepInputs
from m2raap.core.view import View
from m2raap.stages import stage_classes
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.stages.shared import SHARED_KEYS, Shared
from tests.conftest import digests

Keys = tuple[str, ...]
BUDGET = {"max_cost": 1.0, "price_in": 1.0}
ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "budget": BUDGET}
# What a section holds while a key of it is tried: most keys of captioners, modules and rules need others beside them.
BASES: dict[str, list[dict[str, Any]]] = {
    "align": [{}, {"balance": {"target": 100}}],
    "annotate": [{}, {"balance": {"target": 100}}],
    "caption": [
        {},
        {"name": "endpoint", "endpoint": ENDPOINT},
        {"name": "transformers", "transformers": {"model": "m"}},
    ],
    "rewrite": [
        {},
        {"name": "endpoint", "endpoint": ENDPOINT},
        {"name": "local", "local": {"model": "m", "budget": BUDGET}},
    ],
    "adapt": [
        *({"temporal": {"name": name}} for name in ("mean", "seqtransf", "stan", "adapter", "message")),
        {"lora": {}, "acg": {}, "loss": {"frame_caption": {"weight": 0.5}}},
        {"harmonize": {}, "loss": {"clip_caption": {"weight": 0.5}}},
        {"train_text": False},
        *(
            {"interaction": {"name": name}, "loss": {"interaction": {"weight": 0.5}}}
            for name in ("mug", "caption_guided_mug", "fine")
        ),
    ],
    "cotrain": [{"temporal": {"name": name}} for name in ("seqtransf", "stan")],
    "embed": [
        {},
        {"captions": True, "rerank": {}},
        *({"rerank": {"interaction": {"name": name, "start": "open"}}} for name in ("mug", "fine")),
    ],
}
# Keys that no value changes alone: a name that needs other keys beside it, and sides on which a rule never refuses.
NEVER_ALONE = (
    "caption.name",
    "caption.options",  # of code from outside: tests/stages/test_caption_truth.py
    "annotate.tagger",  # files, whose content is in the digest: tests/stages/test_annotate.py
    "evaluate.tags",  # the same: tests/stages/test_tags_of_benchmark.py
    "annotate.labels.stop_words",
    "annotate.labels.synonyms",
    "adapt.temporal.name",
    "cotrain.temporal.name",
    "adapt.interaction.name",
    "embed.rerank.interaction.name",
    "embed.rerank.interaction.start",
    "align.mismatch.limit.max",
    "align.mismatch.limit.highest",
)
# Where no value can be guessed from the type.
VALUES: dict[str, list[Any]] = {
    "prompts": [str(files("m2raap").joinpath("curate/prompts"))],
    "base_url": ["http://localhost:10/v1"],
    "extra": [{"top_p": 0.5}],
    "random_resized_crop": [[0.5, 1.0]],
    "benchmarks": [{"mine": {"test_videos": 3}}],
    "interaction": [{"name": "fine", "start": "open"}],
    "scores": [{"motion": {"min": 0.5}}],
    "rules": [
        {"rewrite_lost": {"max": 0.5}},
        {"clip_too_short": {"min": 2.0}},
        {"text_too_short": {"min": 9}},
        {"black": {"max": 0.4}},
    ],
    "targets": [["fc1"], ["out_proj"]],
    "betas": [[0.8, 0.9]],
    "lang_odds": [{"en": 2.0, "zh": 1.0}],
    "origin_odds": [{"raw": 2.0}],
    "objective": ["sigmoid", "siglip", "python:a:b"],
    "device": ["cpu"],
    "source": ["category"],
    "gamma": [[0.1, 0.2]],
    "truth": ["truth.parquet"],
}


def leaves(model: type[BaseModel], above: Keys = (), phase: str = "score") -> Iterator[tuple[Keys, Any, str]]:
    """Every key of a config that holds a value: its path, its type, its phase."""
    for name, field in model.model_fields.items():
        mark = phase if phase == HOW["phase"] else phase_of(field, phase)
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        below = [t for t in inner if issubclass(t, BaseModel)]
        is_mapping = get_origin(field.annotation) is dict
        if not below or is_mapping:
            yield (*above, name), field.annotation, mark
        for config in below if not is_mapping else ():
            yield from leaves(config, (*above, name), mark)


def candidates(name: str, annotation: Any, value: Any) -> list[Any]:
    """Other values that a key might take; which are allowed is tried."""
    if name in VALUES:
        return VALUES[name]
    if get_origin(annotation) in (Union, types.UnionType):
        return [v for t in get_args(annotation) for v in candidates(name, t, value)] + [None]
    if get_origin(annotation) is Literal:
        return [item for item in get_args(annotation) if item != value]
    if get_origin(annotation) is tuple:
        return [[item] for item in candidates(name, get_args(annotation)[0], None)]
    numbers = [v for v in (value,) if isinstance(v, int | float)] or [1]
    if annotation is bool:
        return [not value]
    if annotation is int:
        return [numbers[0] + 1, numbers[0] - 1, 2 * numbers[0] + 2, 1, 2, 8, 100]
    if annotation is float:
        return [numbers[0] / 2, numbers[0] * 2, 0.5, 0.25, 0.9, 1.0, 5.0]
    return ["x2"] if annotation is str else []


def at(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def changed(cls: type[Stage[Any]], keys: Keys, annotation: Any) -> Iterator[tuple[Stage[Any], Stage[Any]]]:
    """The stage before and after a change of the key alone, for each base that allows one."""
    for base in BASES.get(cls.name, [{}]):
        before = build(cls.config, base, "base")
        plain = before.model_dump(mode="json")
        if at(plain, keys[:-1]) is None and len(keys) > 1:
            continue
        for value in candidates(keys[-1], annotation, at(plain, keys)):
            try:
                after = cls.config.model_validate(set_keys(merge({}, base), [(list(keys), value)]))
            except ValidationError:
                continue
            if after != before:
                yield cls(before, Shared()), cls(after, Shared())
                break


# Written out, because a wrong mark would make its own test pass.
DECODER = ("timeout_s", "memory_mb", "calls_per_child")
ASKING = (
    "base_url", "api_key_env", "allow_remote", "timeout_s", "attempts", "first_wait_s", "max_wait_s", "concurrency",
    "allow_errors",
)  # fmt: skip
HOW_KEYS = {
    *(f"{stage}.decode.{key}" for stage in ("filter", "keyframes") for key in DECODER),
    *(f"keyframes.remote.{key}" for key in ("allow_remote", "timeout_s")),
    *(f"{stage}.endpoint.{key}" for stage in ("caption", "rewrite") for key in ASKING),
    *(
        f"{model}.budget.{key}"
        for model in ("caption.endpoint", "rewrite.endpoint", "rewrite.local")
        for key in ("max_requests", "max_tokens", "max_cost", "price_in", "price_out")
    ),
    *(f"{stage}.prompts" for stage in ("caption", "rewrite")),
    *(
        f"adapt.{key}"
        for key in (
            "decoders",
            "checkpoint_every_steps",
            "compile",
            "device",
            "recompute",
            "threads",
            "tensorboard",
            "wandb",
            "harmonize.truth",
        )
    ),
    "cotrain.threads",
    "evaluate.tags",
    *(f"annotate.{key}" for key in ("tagger", "labels.stop_words", "labels.synonyms")),
}


def test_which_keys_say_how() -> None:
    marked = {
        ".".join((name, *keys))
        for name, cls in stage_classes().items()
        for keys, _, phase in leaves(cls.config)
        if phase == HOW["phase"]
    }
    assert marked == HOW_KEYS


KEYS = [
    pytest.param(cls, keys, annotation, phase, id=".".join((name, *keys)))
    for name, cls in stage_classes().items()
    for keys, annotation, phase in dict(((k, str(a)), (k, a, p)) for k, a, p in leaves(cls.config)).values()
    if keys[0] not in SHARED_KEYS and ".".join((name, *keys)) not in NEVER_ALONE
]


@pytest.mark.parametrize(("cls", "keys", "annotation", "phase"), KEYS)
def test_a_key_is_in_the_digest_or_says_how(cls: type[Stage[Any]], keys: Keys, annotation: Any, phase: str) -> None:
    pairs = list(changed(cls, keys, annotation))
    assert pairs, "no other value of this key is allowed in any base: give one in VALUES or a base in BASES"
    for before, after in pairs:
        same = digest(before.settings()) == digest(after.settings())
        assert same == (phase == HOW["phase"]), (before.cfg, after.cfg)
        if isinstance(before, DataStage) and phase == "apply":
            assert before.settings()["score"] == after.settings()["score"]


@pytest.mark.parametrize("name", BASES)
def test_other_kinds_of_a_section_have_other_digests(name: str) -> None:
    cls = stage_classes()[name]
    settings = [digest(cls(build(cls.config, base, "base"), Shared()).settings()) for base in BASES[name]]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("key", SHARED_KEYS)
def test_what_a_recipe_says_once_is_in_the_digest_of_who_reads_it(key: str) -> None:
    other = Shared.model_validate({"backbone": {"model": "ViT-B-32"}, "langs": ["zh"], "seed": 7})
    readers = {
        name
        for name, cls in stage_classes().items()
        if cls.on_training or cls.on_benchmarks
        if digest(cls(cls.config(), Shared()).settings())
        != digest(cls(cls.config(), Shared().model_copy(update={key: getattr(other, key)})).settings())
    }
    expected = {"backbone": {"align", "caption", "cotrain", "adapt"}, "langs": {"caption", "rewrite", "adapt"}}
    assert readers == expected.get(key, {"cotrain", "adapt", "evaluate"})


def test_another_time_out_decodes_nothing_again(small_world: Path, tmp_path: Path, capsys) -> None:
    view, folder = View(small_world / "train").limited(6), tmp_path / "keyframes"
    run_stage(KeyframesStage(KeyframesConfig(k=2)), StepInputs(view, folder, LocalEngine(1)))
    before = digests(folder)
    patient = {"timeout_s": 77.0, "calls_per_child": 3}
    cfg = build(KeyframesConfig, {"k": 2, "decode": patient, "remote": {"allow_remote": True}}, "test")
    run_stage(KeyframesStage(cfg), StepInputs(view, folder, LocalEngine(1)))
    assert "already finished" in capsys.readouterr().err and digests(folder) == before
