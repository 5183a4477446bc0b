"""A recipe: the list of stages with one small typed config each, and its arms. Data and output paths are never in it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from m2raap.adapt.config import AdaptConfig
from m2raap.core.config import Config, build, merge, parse_assignment, read_yaml, set_keys
from m2raap.core.errors import UsageError
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages import DATA_STAGES
from m2raap.stages.align import AlignConfig
from m2raap.stages.caption import CaptionConfig
from m2raap.stages.embed import EmbedConfig
from m2raap.stages.filter import FilterConfig
from m2raap.stages.keyframes import KeyframesConfig
from m2raap.stages.rewrite import RewriteConfig

TrainingStage = Literal["filter", "keyframes", "align", "caption", "rewrite", "adapt"]
_SHARED = ("backbone", "langs", "seed")


class Recipe(Config):
    """One experiment. `arms` are named overrides of it; arms share every stage folder whose inputs and settings agree."""

    name: str  # of the experiment; names its one arm where there are no arms
    title: str = ""  # of the report; default: the name
    langs: tuple[Literal["en", "zh"], ...] = Field(default=("en", "zh"), min_length=1)  # of the texts that are read
    seed: int = Field(default=0, ge=0)  # of everything that is drawn
    seeds: int = Field(
        default=1, ge=1, le=100, description="training seeds: seed, seed + 1, ...; what is curated is shared by all"
    )
    stages: tuple[TrainingStage, ...] = (*DATA_STAGES, "adapt")  # of the training corpus, in this order
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    filter: FilterConfig = Field(default_factory=FilterConfig)
    keyframes: KeyframesConfig = Field(default_factory=KeyframesConfig)
    align: AlignConfig = Field(default_factory=AlignConfig)
    caption: CaptionConfig = Field(default_factory=CaptionConfig)
    rewrite: RewriteConfig = Field(default_factory=RewriteConfig)
    adapt: AdaptConfig = AdaptConfig()
    bench_keyframes: KeyframesConfig | None = Field(
        default=None, description="frames of benchmarks; null: as `keyframes`"
    )
    embed: EmbedConfig = Field(default_factory=EmbedConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    compare: tuple[tuple[str, str], ...] = Field(
        default=(), description="pairs of arms whose difference the report shows"
    )
    progressive: bool = Field(
        default=False,
        description="each arm adds one thing to the arm before it: the report shows what each step brings",
    )
    arms: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], dict[str, Any]] = Field(
        default_factory=dict, description="named overrides of all other keys; each is a run of its own"
    )

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        ordered = tuple(stage for stage in (*DATA_STAGES, "adapt") if stage in stages)
        if stages != ordered:
            raise ValueError(f"stages run in this order: {', '.join(ordered)}")
        if "adapt" in stages and "keyframes" not in stages:
            raise ValueError("adapt reads frames: keyframes has to stand among the stages")
        for stage in ("align", "caption"):
            if stage in stages and "keyframes" not in stages:
                raise ValueError(f"{stage} reads frames: keyframes has to stand among the stages")
        return stages

    @model_validator(mode="before")
    @classmethod
    def _shared_at_the_top(cls, tree: Any) -> Any:
        adapt = tree.get("adapt") if isinstance(tree, dict) else None
        for key in _SHARED:
            if isinstance(adapt, dict) and key in adapt:
                raise ValueError(f"'{key}' belongs at the top of the recipe, not under adapt: other stages read it too")
        return tree

    @property
    def adapt_settings(self) -> AdaptConfig:
        """The adapt settings with what the recipe says once for all stages."""
        return self.adapt.model_copy(update={key: getattr(self, key) for key in _SHARED})


def recipes_folder() -> Path:
    """Where the shipped recipes lie: in the wheel beside the package's code, in a checkout at its top."""
    inside = Path(str(resources.files("m2raap"))) / "recipes"
    return inside if inside.is_dir() else inside.parent.parent / "recipes"


def find_recipe(name: str) -> Path:
    """A path as it stands, or the name of a shipped recipe ('demo', 'recipes/demo.yaml')."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{path.stem}.yaml"
    if shipped.is_file() and path.parent in (Path("."), Path("recipes")):
        return shipped
    known = ", ".join(sorted(file.stem for file in recipes_folder().glob("*.yaml")))
    raise UsageError(f"{name}: no such file, and no recipe of that name is shipped (shipped: {known})")


def load_recipe(name: str, assignments: list[str] | None = None, seed: int | None = None) -> Recipe:
    """Defaults < file < assignments. Raises UsageError naming file, key and the nearest good name."""
    path = find_recipe(name)
    tree = read_yaml(path)
    settings = [parse_assignment(item) for item in assignments or []]
    if seed is not None:
        settings.append((["seed"], seed))
    tree = set_keys(tree, settings)
    recipe = build(Recipe, tree, str(path))
    for arm in recipe.arms:
        arm_recipe(recipe, arm, str(path))
    for pair in recipe.compare:
        for arm in pair:
            if arm not in recipe.arms:
                raise UsageError(f"{path}: compare names the arm '{arm}'; arms are: {', '.join(recipe.arms) or 'none'}")
    return recipe


def arm_recipe(recipe: Recipe, arm: str, source: str = "recipe") -> Recipe:
    """The recipe with an arm's overrides laid on it."""
    base = recipe.model_dump(mode="json", exclude_unset=True, exclude={"arms", "compare", "progressive"})
    for key in ("arms", "compare", "progressive"):
        if key in recipe.arms[arm]:
            raise UsageError(f"{source}: arms.{arm}: '{key}' cannot stand in an arm")
    return build(Recipe, merge(base, recipe.arms[arm]), f"{source}: arms.{arm}")


def with_remote_videos(recipe: Recipe) -> Recipe:
    """The recipe with leave to fetch videos whose path is an address, for every arm."""
    found = {}
    for name in ("keyframes", "bench_keyframes"):
        if (cfg := getattr(recipe, name)) is not None:
            found[name] = cfg.model_copy(update={"remote": cfg.remote.model_copy(update={"allow_remote": True})})
    return recipe.model_copy(update=found)


def arms_of(recipe: Recipe) -> dict[str, Recipe]:
    """Name -> recipe of every arm; a recipe without arms is one arm that carries its name.

    With several training seeds each arm that trains stands there once a seed, as 'arm', 'arm~1', 'arm~2' ...
    """
    arms = {arm: arm_recipe(recipe, arm) for arm in recipe.arms} if recipe.arms else {recipe.name: recipe}
    found = {}
    for arm, one in arms.items():
        found[arm] = one
        for further in range(1, recipe.seeds if "adapt" in one.stages else 1):
            found[f"{arm}~{further}"] = one.model_copy(update={"seed": recipe.seed + further})
    return found


def base_arm(arm: str) -> str:
    """The arm of the recipe that 'arm~1' is a further seed of."""
    return arm.partition("~")[0]
