"""Extensions: settings that name code of the user's, `python:module:name`, run only with --allow-code."""

from __future__ import annotations

import json
import os
import py_compile
from pathlib import Path

import pytest
import torch
import yaml

import m2raap as package
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loop import adapt
from m2raap.core import extension
from m2raap.core.config import build, merge
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import file_sha256
from m2raap.core.tables import read_all
from m2raap.curate.text_rules import score_rows
from m2raap.curate.video_rules import outside_scores
from m2raap.models.config import BackboneConfig, ExtensionInteractionConfig, ExtensionTemporalConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits, TextUnits
from m2raap.models.temporal import build_temporal
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe
from m2raap.stages.adapt import AdaptStage
from tests.adapt.test_raw_video import Films
from tests.conftest import m2raap
from tests.pages import blocks
from tests.runs import RECIPE

CODE = Path(__file__).parent / "outside_code.py"
WORDS = "python:outside_code:word_counts"
WIDTH = "python:outside_code:width"
CHANGES = "python:outside_code:Changes"


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, which holds the user's module."""
    (tmp_path / "outside_code.py").write_bytes(CODE.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(home: Path, **keys: object) -> Path:
    tree = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | {"arms": {}} | keys
    (home / "mine.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return home / "mine.yaml"


def run(home: Path, world: Path, *more: object, out: str = "R", **options) -> str:
    words = ("run", "mine.yaml", "--data", world / "train", "--out", out, "--allow-refused", "20%")
    return m2raap(*words, *more, cwd=home, **options).stderr


def test_rules(home: Path, small_world: Path) -> None:
    """In two worker processes; every command that reads works without the code."""
    filter_keys = {
        "text": {"rules": {WORDS: {"en": 8, "zh": {"highest": 0.1}}}},
        "video": {"rules": {WIDTH: {"max": 96}}},
    }
    recipe(home, stages=["filter"], filter=filter_keys)
    refused = run(home, small_world, check=2)
    assert f"filter.text.rules: {WORDS}" in refused and "--allow-code" in refused and len(refused.splitlines()) == 1
    assert not (home / "R").exists()
    run(home, small_world, "--until", "filter", "--workers", 2, "--allow-code")
    dropped = [row for row in read_all(home / "R" / "filter", "dropped") if row["reason"] == WORDS]
    texts = {row["text_id"]: row["text"] for row in read_all(small_world / "train", "texts")}
    assert dropped and all(row["score"] == len(texts[row["text_id"]].split()) for row in dropped)
    assert {row["threshold"] for row in dropped if ".en" in row["text_id"]} == {8.0}
    wide = {row["clip_id"] for row in read_all(home / "R" / "filter", "dropped") if row["reason"] == WIDTH}
    widths = {row["clip_id"]: row["width"] for row in read_all(home / "R" / "filter", "signals") if row["width"]}
    assert wide == {clip for clip, width in widths.items() if width > 96}
    told = m2raap("explain", dropped[0]["clip_id"], "--in", home / "R").stdout
    assert WORDS in told and (WIDTH in told or not wide)
    m2raap("status", home / "R", "--verify")
    with (home / "outside_code.py").open("a") as source:
        source.write("# another version\n")
    changed = run(home, small_world, "--until", "filter", "--allow-code", check=1)
    assert "was made with" in changed and f"filter.code.{WORDS}" in changed


def test_the_page_runs(home: Path, small_world: Path) -> None:
    """docs/extend.md: its recipe with its file, which has one of each kind; and the model that it gives."""
    sections = [block for block in blocks("docs/extend.md", "python") if block.startswith("# mine.py\n")]
    (home / "mine.py").write_text("".join(sections), encoding="utf-8")
    (text,) = blocks("docs/extend.md", "yaml")[:1]
    small = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    tree = merge(small | {"arms": {}}, yaml.safe_load(text))
    tree["adapt"] |= {"steps": 4, "keep": "last"}
    tree["stages"] = ["filter", "keyframes", "align", "caption", "rewrite", "adapt"]
    tree["align"] = {"video": tree["filter"]["video"]}
    (home / "mine.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    run(home, small_world, "--bench", f"motion={small_world / 'test'}", "--workers", 1, "--limit", 24, "--allow-code")
    producers = {row["producer"] for table in ("caption", "rewrite") for row in read_all(home / "R" / table, "texts")}
    assert producers <= {"brightness 1", "first sentence 1"} and "brightness 1" in producers
    clips = [row for row in read_all(home / "R" / "align", "verdicts") if row["text_id"] is None]
    assert clips and all(0 < row["python:mine:megapixels"] < 1 for row in clips)
    m2raap("report", "write", home / "R")
    model = home / "R" / "adapt" / "model"
    saved = json.loads((model / "model.json").read_text(encoding="utf-8"))
    changes = "python:mine:Changes"
    assert (
        saved["temporal"] == {"name": changes, "options": {"step": 1}}
        and saved["interaction"]["form"] == "python:mine:mean_match"
    )
    assert list(saved["code"]) == [changes, "python:mine:mean_match"]
    refused = m2raap("model", "export", model, "--to", "hub", "--out", home / "hub", check=2).stderr
    assert changes in refused and "--allow-code" in refused
    m2raap("model", "export", model, "--to", "hub", "--out", home / "hub", "--allow-code")
    m2raap("--allow-code", "model", "interpolate", model, "--alpha", 0.5, "--out", home / "half")
    with pytest.raises(UsageError, match=changes):
        package.load(home / "hub")
    loaded = package.load(home / "hub", allow_code=True)
    assert loaded.digest == saved["digest"] and loaded.temporal.step == 1
    assert extension.ALLOWED_FROM not in os.environ
    (home / "mine.py").write_text("".join(sections) + "\n", encoding="utf-8")
    with pytest.raises(M2raapError, match="another version of .*mine.py"):
        package.load(home / "hub", allow_code=True)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("python:os.path:join", "of Python or of m2raap"),
        ("python:m2raap.api:run", "of Python or of m2raap"),
        ("python:data_tools.world.make:make_world", "of Python or of m2raap"),
        ("python:nowhere.at_all:rule", "no module nowhere.at_all"),
        ("python:outside_code:word_count", "has no 'word_count'; it defines word_counts, width"),
        ("python:outside_code:not_callable", "is a int"),
        ("python:broken:rule", "broken.py cannot be imported: SyntaxError"),
        ("python:theirs.code:rule", "theirs is a folder that m2raap wrote"),
        ("python:theirs.inner.code:rule", "theirs is a folder that m2raap wrote"),
        ("python:linked.code:rule", "theirs is a folder that m2raap wrote"),
        ("python:link_of_mine:rule", "theirs is a folder that m2raap wrote"),
        ("python:sent.code:rule", "sent is a folder that m2raap wrote"),
        ("python:script:rule", "script.py cannot be imported: SystemExit: 0"),
    ],
)
def test_names_that_are_refused(home: Path, name: str, named: str) -> None:
    (home / "broken.py").write_text("def rule(:\n", encoding="utf-8")
    (home / "script.py").write_text("import sys; sys.exit(0)\n", encoding="utf-8")
    (home / "linked").symlink_to(home / "theirs" / "inner")
    (home / "link_of_mine.py").symlink_to(home / "theirs" / "inner" / "code.py")
    for folder in (home / "theirs", home / "theirs" / "inner", home / "sent"):
        folder.mkdir()
        (folder / "__init__.py").write_text("import os; os.environ['HOME_OF_THEIRS'] = 'ran'\n", encoding="utf-8")
        (folder / "code.py").write_text("def rule(batch): return []\n", encoding="utf-8")
    (home / "theirs" / "model.json").write_text('{"made_from": {}}', encoding="utf-8")
    (home / "sent" / "export.json").write_text('{"kind": "export"}', encoding="utf-8")
    with extension.code_allowed(True), pytest.raises(UsageError, match=f"some.key: {name}.*{named}"):
        extension.load(name, "some.key")
    assert "HOME_OF_THEIRS" not in os.environ


def test_no_file_of_the_folder_replaces_an_installed_module(home: Path) -> None:
    (home / "yaml.py").write_text("def safe_load(text): return 'mine'\n", encoding="utf-8")
    with extension.code_allowed(True):
        assert extension.load("python:yaml:safe_load", "key") is yaml.safe_load


def test_the_source_runs_whose_digest_is_recorded(home: Path) -> None:
    """Python would run a cached file that says nothing of its source."""
    module = home / "cached.py"
    module.write_text("def rule(batch): return 'another'\n", encoding="utf-8")
    py_compile.compile(str(module), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    module.write_text("def rule(batch): return 'mine'\n", encoding="utf-8")
    with extension.code_allowed(True):
        assert extension.load("python:cached:rule", "key")(None) == "mine"
        assert extension.source_digest("python:cached:rule", "key") == file_sha256(module)


def test_what_rules_return(home: Path) -> None:
    """A fault of the user's code is reported as one, with its file."""
    with extension.code_allowed(True):
        with pytest.raises(M2raapError, match=r"filter.text.rules.python:outside_code:too_few: expected 2"):
            score_rows(["a dog", "a cat"], "en", ["python:outside_code:too_few"])
        with pytest.raises(
            M2raapError, match=r"python:outside_code:seven: expected a finite number or None, found '7'"
        ):
            outside_scores({}, ["python:outside_code:seven"])


def test_a_fault_of_the_code_is_none_of_m2raap(home: Path, small_world: Path) -> None:
    for name, error in (("fails", "RuntimeError"), ("ends", "SystemExit: 0")):
        recipe(home, stages=["filter"], filter={"text": {"rules": {f"python:outside_code:{name}": 1}}})
        failed = run(home, small_world, "--until", "filter", "--workers", 1, "--allow-code", check=1, out=name)
        assert f"a fault in {home / 'outside_code.py'}" in failed and error in failed


def test_a_temporal_module(home: Path) -> None:
    """Its options are checked by its Config, it starts at mean pooling, and settings without code are as they were."""
    assert "code" not in AdaptStage(AdaptConfig()).settings()
    cfg = build(AdaptConfig, {"temporal": {"name": CHANGES, "options": {"stop": 2}}}, "mine.yaml")
    assert cfg.model_dump(mode="json")["temporal"] == {"name": CHANGES, "options": {"stop": 2}}
    sections = [block for block in blocks("docs/extend.md", "python") if "class Changes" in block]
    (home / "outside_code.py").write_text("".join(sections), encoding="utf-8")
    with extension.code_allowed(True), pytest.raises(UsageError, match=r"adapt.temporal.options.*'stop'.*'step'"):
        build_temporal(cfg.temporal, load_backbone(BackboneConfig()))
    mine = ExtensionTemporalConfig(name=CHANGES, options={"step": 1})
    with extension.code_allowed(True):
        model = VideoCLIP(load_backbone(BackboneConfig()), mine)
    side = model.backbone.preprocess.image_size
    frames = torch.randn(1, 3, 3, side, side)
    with torch.inference_mode():
        plain = VideoCLIP(model.backbone, MeanConfig()).encode_video(frames)
        assert torch.allclose(model.encode_video(frames), plain, atol=1e-6)
        torch.nn.init.eye_(model.temporal.out.weight)
        assert not torch.allclose(model.encode_video(frames), model.encode_video(frames.flip(1)), atol=1e-4)
    with extension.code_allowed(True), pytest.raises(UsageError, match=r"numpy:zeros is no class of torch.nn.Module"):
        build_temporal(ExtensionTemporalConfig(name="python:numpy:zeros"), model.backbone)
    short = build(Recipe, {"name": "x", "adapt": {"temporal": CHANGES}}, "mine.yaml")
    assert short.adapt.temporal == ExtensionTemporalConfig(name=CHANGES)
    with pytest.raises(UsageError, match=r"unknown key 'adapt.temporal.optoins'.*'options'"):
        build(Recipe, {"name": "x", "adapt": {"temporal": {"name": CHANGES, "optoins": {}}}}, "mine.yaml")
    with pytest.raises(UsageError, match=r"min"):
        build(Recipe, {"name": "x", "filter": {"text": {"rules": {WORDS: {"min": 1}}}}}, "mine.yaml")
    with pytest.raises(UsageError, match=r"unknown rule 'python:outside_code'"):
        build(Recipe, {"name": "x", "filter": {"text": {"rules": {"python:outside_code": 1}}}}, "mine.yaml")


def test_an_interaction(home: Path) -> None:
    """The page's class starts at the cosine, and is saved and loaded with the model."""
    (section,) = [block for block in blocks("docs/extend.md", "python") if "class Nearest" in block]
    (home / "mine.py").write_text(section, encoding="utf-8")
    settings = {"interaction": "python:mine:Nearest", "loss": {"interaction": 1.0}}
    cfg = build(AdaptConfig, settings, "mine.yaml")
    with extension.code_allowed(True):
        model = VideoCLIP(load_backbone(BackboneConfig()), MeanConfig(), interaction=cfg.interaction)
        vectors = torch.nn.functional.normalize(torch.randn(2, 3, model.backbone.embed_dim), dim=-1)
        mask = torch.tensor([[True, True, True], [True, False, False]])
        texts, clips = TextUnits(vectors[:, 1]), ClipUnits(vectors[:, 0], vectors, mask)
        cosine = vectors[:, 1] @ vectors[:, 0].T
        torch.testing.assert_close(score_matrix(model.interaction, texts, clips), cosine)
        torch.nn.init.ones_(model.interaction.module.gate)
        nearest = torch.stack([vectors[:, 1] @ vectors[0].T, vectors[:, 1] @ vectors[1].T], 1)
        expected = cosine + torch.stack([nearest[:, 0].amax(1), nearest[:, 1, 0]], 1)
        torch.testing.assert_close(score_matrix(model.interaction, texts, clips), expected)
        model.save(home / "model")
        assert VideoCLIP.load(home / "model").gates() == {"interaction_gate": 1.0}
        (home / "mine.py").write_text(section + "\n", encoding="utf-8")
        with (
            extension.code_allowed(True),
            pytest.raises(M2raapError, match="interaction.*another version of .*mine.py"),
        ):
            VideoCLIP.load(home / "model")


INTERACTION = """
import torch
class Needing(torch.nn.Module):
    needs = NEEDS
    def __init__(self, options, embed_dim):
        super().__init__()
    def forward(self, pairs):
        return pairs.cosine()
    def gates(self):
        return {}
"""


def test_what_an_interaction_needs(home: Path) -> None:
    """Names of parts, and captions of stored frames only where frames are stored."""
    for needs, words in (("None", "needs is a set of"), ("{'tokns'}", "needs 'tokns'")):
        (home / f"of{len(needs)}.py").write_text(INTERACTION.replace("NEEDS", needs), encoding="utf-8")
        with extension.code_allowed(True), pytest.raises(UsageError, match=words):
            build_interaction(ExtensionInteractionConfig(name=f"python:of{len(needs)}:Needing"), 8)
    (home / "captions.py").write_text(INTERACTION.replace("NEEDS", "{'captions'}"), encoding="utf-8")
    settings = {"input": "video", "interaction": "python:captions:Needing", "loss": {"interaction": 1.0}}
    cfg, films = build(AdaptConfig, settings, "mine.yaml"), Films(home)
    for clip in range(films.num_clips):
        films.video(clip).path.write_bytes(b"never decoded")
    with extension.code_allowed(True), pytest.raises(M2raapError, match="captions of stored key-frames.*adapt.input"):
        adapt(cfg, films, None, home / "out")


def test_arms_may_name_code(home: Path) -> None:
    arms = {"mine": {"adapt": {"temporal": {"name": CHANGES, "options": {"step": 2}}}}, "plain": {}}
    loaded = arms_of(load_recipe(str(recipe(home, arms=arms))))
    assert loaded["mine"].adapt.temporal == ExtensionTemporalConfig(name=CHANGES, options={"step": 2})
    assert loaded["plain"].adapt.temporal.name == "stan"
    with pytest.raises(UsageError, match=r"adapt.temporal.name: python:outside_code:Changes.*--allow-code"):
        loaded["mine"].stage("adapt").settings()
