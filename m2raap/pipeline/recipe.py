"""A recipe: the list of stages with one small typed config each, and its arms. It holds no paths of data or output."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from m2raap import stages
from m2raap.adapt.config import AdaptConfig
from m2raap.annotate.config import AnnotateConfig
from m2raap.core import talk
from m2raap.core.config import Config, build, merge, parse_assignments, read_yaml, set_keys, suggestion
from m2raap.core.errors import UsageError
from m2raap.core.files import leads_out
from m2raap.core.stage import SingleStage, Stage
from m2raap.cotrain.config import CotrainConfig
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages import stage_class, stage_classes
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.align import AlignConfig
from m2raap.stages.caption import CaptionConfig, CaptionStage
from m2raap.stages.cotrain import CotrainStage
from m2raap.stages.embed import EmbedConfig, EmbedStage
from m2raap.stages.evaluate import EvaluateStage
from m2raap.stages.filter import FilterConfig, FilterStage
from m2raap.stages.keyframes import KeyframesConfig
from m2raap.stages.rewrite import RewriteConfig, RewriteStage
from m2raap.stages.shared import SHARED_KEYS, Shared

# Names that a run or a stage folder gives to files and folders of its own: an arm's folder would take their place.
_OF_EVERY_RUN = (
    "report", "cache", "run.json", "interpolation.json", "plan.json", "manifest.json", "previous", "previous.tmp"
)  # fmt: skip
# Keys that hold for the whole recipe: an arm cannot have them. (`merge` would replace a mapping that has another `name`.)
_OF_THE_WHOLE = ("arms", "compare", "progressive", "name", "title", "seeds")


def training_stages() -> tuple[str, ...]:
    """The stages that a recipe may ask for on its training corpus, in their order."""
    return tuple(name for name, cls in stage_classes().items() if cls.on_training)


def default_stages() -> tuple[str, ...]:
    """Those of `training_stages` that a recipe has where it names none."""
    return tuple(name for name in training_stages() if stage_class(name).by_default)


class Recipe(Config):
    """One experiment. `arms` are named overrides of it; arms share every stage folder whose inputs and settings agree."""

    name: str = Field(description="Name of the experiment, and of its one arm where it has no arms.")
    title: str = Field(default="", description="Title of the report; empty: the name.")
    langs: tuple[Literal["en", "zh"], ...] = Field(
        default=("en", "zh"), min_length=1, description="Languages of the texts that are read."
    )
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")
    seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Number of training seeds: seed, seed + 1 and so on. All of them train on the same curated data.",
    )
    stages: tuple[str, ...] = Field(
        default_factory=default_stages,
        description="Stages of the training corpus, in the order of the stage table.",
    )
    backbone: BackboneConfig = Field(
        default_factory=BackboneConfig, description="The image-text model that is adapted."
    )
    filter: FilterConfig = Field(
        default_factory=FilterConfig, description="Rules that drop clips and texts before decoding."
    )
    keyframes: KeyframesConfig = Field(default_factory=KeyframesConfig, description="How key-frames are chosen.")
    align: AlignConfig = Field(
        default_factory=AlignConfig, description="Rules that drop clips and texts by their frames."
    )
    annotate: AnnotateConfig = Field(
        default_factory=AnnotateConfig, description="Tags of clips by a tagger that is trained on the corpus, or given."
    )
    caption: CaptionConfig = Field(default_factory=CaptionConfig, description="Auxiliary captions of key-frames.")
    rewrite: RewriteConfig = Field(
        default_factory=RewriteConfig, description="Rewriting of raw texts into faithful captions."
    )
    cotrain: CotrainConfig = Field(
        default_factory=CotrainConfig, description="Self-supervised training on clips without captions, before `adapt`."
    )
    adapt: AdaptConfig = Field(default_factory=AdaptConfig, description="Training.")
    bench_keyframes: KeyframesConfig | None = Field(
        default=None, description="How key-frames of benchmarks are chosen; null: as in `keyframes`."
    )
    embed: EmbedConfig = Field(default_factory=EmbedConfig, description="How benchmarks are embedded.")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="How benchmarks are scored.")
    signals_of: str | None = Field(
        default=None,
        description="In an arm: an arm before it, of whose last training (its first seed) the signals, such as `conflict` of "
        "adapt.harmonize or `cluster_pmi` of cotrain.texts, are scores for `filter` here.",
    )
    compare: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs of arms whose difference the report shows."
    )
    progressive: bool = Field(
        default=False,
        description="Whether each arm adds one thing to the arm before it; the report then shows what each addition brings.",
    )
    arms: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], dict[str, Any]] = Field(
        default_factory=dict, description="Named overrides of the other keys; each arm is trained and evaluated."
    )

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        known = training_stages()
        for stage in stages:
            if stage not in known:
                raise ValueError(f"unknown stage '{stage}': {suggestion(stage, known)}")
            for need in stage_class(stage).needs:
                if need not in stages:
                    raise ValueError(f"{stage} reads the output of {need}: add {need} to the stages")
        if twice := [stage for stage in stages if stages.count(stage) > 1]:
            raise ValueError(f"{twice[0]} is named twice")
        ordered = tuple(stage for stage in known if stage in stages)
        if stages != ordered:
            raise ValueError(f"the stages have to be listed in the order in which they run: {', '.join(ordered)}")
        return stages

    @field_validator("langs")
    @classmethod
    def _each_once(cls, langs: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [lang for lang in langs if langs.count(lang) > 1]:
            raise ValueError(f"{twice[0]} is named twice")
        return langs

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        """With several training seeds the recipe's name is that of a folder, which has to lie in --out."""
        if name.strip()[:1] in ("", ".") or leads_out(name) or any(c in "/\\" or not c.isprintable() for c in name):
            raise ValueError(
                "a name cannot be empty, begin with a dot, or hold '/', '\\', a drive or control characters"
            )
        return _not_of_every_run(name)

    @field_validator("arms")
    @classmethod
    def _are_not_of_every_run(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in arms:
            _not_of_every_run(name)
        return arms

    @model_validator(mode="before")
    @classmethod
    def _shared_at_the_top(cls, tree: Any) -> Any:
        adapt = tree.get("adapt") if isinstance(tree, dict) else None
        for key in SHARED_KEYS:
            if isinstance(adapt, dict) and key in adapt:
                raise ValueError(
                    f"'{key}' belongs at the top of the recipe, not under adapt, because other stages read it too"
                )
        return tree

    @property
    def shared(self) -> Shared:
        """The settings that all stages of the recipe share."""
        return Shared(backbone=self.backbone, langs=self.langs, seed=self.seed, decode=self.keyframes.decode)

    def stage(self, name: str, bench: bool = False) -> Stage[Any]:
        """The configured stage of this name; with `bench`, by its `bench_` key where the recipe has one."""
        cfg = (getattr(self, f"bench_{name}", None) if bench else None) or getattr(self, name)
        if isinstance(cfg, FilterConfig) and cfg.keep_without_text is None:
            cfg = cfg.model_copy(update={"keep_without_text": self.captions_become_texts})
        return stage_class(name)(cfg, self.shared)

    @property
    def captions_become_texts(self) -> bool:
        """Whether a clip that comes without texts can get one: by `caption`, and by `rewrite` where the recipe has it."""
        is_filled = RewriteStage.name not in self.stages or self.rewrite.fills_missing
        return CaptionStage.name in self.stages and is_filled

    @property
    def trains(self) -> bool:
        """Whether the recipe trains a model; otherwise the bare backbone embeds the benchmarks."""
        return AdaptStage.name in self.stages or CotrainStage.name in self.stages

    @property
    def bench_stages(self) -> tuple[str, ...]:
        """Names of the stages that a benchmark passes, in the order of the stage table."""
        reads = EmbedStage(self.embed).reads_stages
        return tuple(name for name in stages.STAGES if name in (*reads, EmbedStage.name, EvaluateStage.name))


def _not_of_every_run(name: str) -> str:
    if name in _OF_EVERY_RUN:
        raise ValueError(
            f"an arm or a recipe cannot be called '{name}', because every run has a file or folder of that name"
        )
    return name


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or at the top of a checkout."""
    inside = Path(str(resources.files("m2raap"))) / "recipes"
    return inside if inside.is_dir() else inside.parent.parent / "recipes"


def find_recipe(name: str) -> Path:
    """The file of a recipe that is given as a path or as the name of a shipped one ('demo', 'recipes/demo.yaml').

    Raises UsageError where there is no such file and no shipped recipe of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{path.stem}.yaml"
    if shipped.is_file() and path.parent in (Path("."), Path("recipes")):
        return shipped
    if (other := path.with_suffix(".yml" if path.suffix == ".yaml" else ".yaml")).is_file():
        raise UsageError(f"{name}: no such file; did you mean '{other}'?")
    known = sorted(file.stem for file in recipes_folder().glob("*.yaml"))
    raise UsageError(f"{name}: no such file, and no shipped recipe of that name: {suggestion(path.stem, known)}")


def load_recipe(
    name: str | None, assignments: list[str] | None = None, seed: int | None = None, option: str = "--set"
) -> Recipe:
    """The defaults, overridden by the recipe's file (None: no file), overridden by the assignments 'a.b=c' and the seed.

    `option` is how messages name the assignments; "" where they come from Python. Raises UsageError naming file or
    assignment, key and the nearest good name.
    """
    path = find_recipe(name) if name is not None else None
    source, tree = (str(path), read_yaml(path)) if path else ("", {"name": "default"})
    settings, assigned = parse_assignments(assignments or (), option)
    if seed is not None:
        settings.append((["seed"], seed))
    recipe = build(Recipe, set_keys(tree, settings, option), source, assigned)
    for arm in recipe.arms:
        beginning = f"arms.{arm}."
        of_arm = {key.removeprefix(beginning): text for key, text in assigned.items() if key.startswith(beginning)}
        arm_recipe(recipe, arm, source, of_arm)
    _refuse_absent_signals(recipe, source)
    for pair in recipe.compare:
        for arm in pair:
            if arm not in recipe.arms:
                hint = suggestion(arm, recipe.arms) if recipe.arms else "the recipe has no arms"
                raise UsageError(f"{source}: compare: unknown arm '{arm}': {hint}")
    return recipe


def _refuse_absent_signals(recipe: Recipe, source: str) -> None:
    """Raises UsageError where the signals that an arm reads come from no arm before it that trains and writes some."""
    if recipe.signals_of is not None:
        raise UsageError(f"{source}: signals_of: names an arm for another arm to read from; write it in that arm")
    before: dict[str, Recipe] = {}
    for arm in recipe.arms:
        of_arm = arm_recipe(recipe, arm, source)
        if (origin := of_arm.signals_of) is not None:
            where = f"{source}: arms.{arm}.signals_of"
            if origin not in before:
                hint = suggestion(origin, before) if before else "it is the first arm"
                raise UsageError(f"{where}: '{origin}' is not an arm before this one: {hint}")
            stages = [before[origin].stage(name) for name in before[origin].stages]
            if not any(isinstance(stage, SingleStage) and stage.writes_signals for stage in stages):
                raise UsageError(
                    f"{where}: no training of '{origin}' writes signals; give it adapt.harmonize or cotrain.texts"
                )
            if FilterStage.name not in of_arm.stages:
                raise UsageError(f"{where}: only `filter` reads signals as scores; add it to the arm's stages")
        before[arm] = of_arm


def load_for_stage(
    stage: str, name: str | None, assignments: list[str] | None, seed: int | None = None, arm: str | None = None
) -> Recipe:
    """As `load_recipe`, for a command that runs one stage, with the settings of an arm where one is given.

    Raises UsageError for an unknown arm, and for an assignment to a key of whole runs, such as `name`: it would change nothing.
    """
    loaded = load_recipe(name, assignments, seed)
    for keys, _ in parse_assignments(assignments or ())[0]:
        if keys[0] in (*_OF_THE_WHOLE, "stages"):
            meant = (
                f"; did you mean '{stage}.{keys[0]}'?" if keys[0] in type(getattr(loaded, stage)).model_fields else ""
            )
            raise UsageError(
                f"--set {'.'.join(keys)}: the key '{keys[0]}' is one of runs, and this command runs {stage} alone{meant}"
            )
    return _for_stage(loaded, stage, name, arm)


def of_arm(recipe: Recipe, arm: str) -> Recipe:
    """The recipe with an arm's overrides. Raises UsageError for an arm that it has not."""
    arms = arms_of(recipe)
    if arm not in arms:
        raise UsageError(f"--arm {arm}: recipe {recipe.name} has no such arm: {suggestion(arm, arms)}")
    return arms[arm]


def _for_stage(recipe: Recipe, stage: str, name: str | None, arm: str | None) -> Recipe:
    """The recipe with the settings of an arm; without one, itself, and a note where arms have settings of the stage."""
    if arm is not None:
        return of_arm(recipe, arm)
    differing = [other for other, tree in recipe.arms.items() if {stage, "backbone", "langs"} & set(tree)]
    if differing:
        talk.log(
            f"{stage}: the recipe {name} as it is without its arms; {', '.join(differing)} set{'s' * (len(differing) == 1)} this "
            "stage otherwise (--arm NAME takes the settings of one)"
        )
    return recipe


def arm_recipe(recipe: Recipe, arm: str, source: str = "recipe", assigned: Mapping[str, str] | None = None) -> Recipe:
    """The recipe with an arm's overrides laid on it. `assigned`: as in `build`, by keys of the arm. Raises UsageError."""
    base = recipe.model_dump(mode="json", exclude_unset=True, exclude={"arms", "compare", "progressive"})
    for key in _OF_THE_WHOLE:
        if key in recipe.arms[arm]:
            raise UsageError(
                f"{source}: arms.{arm}: an arm cannot have the key '{key}', which holds for the whole recipe"
            )
    return build(Recipe, merge(base, recipe.arms[arm]), f"{source}: arms.{arm}".removeprefix(": "), assigned)


def with_remote_videos(recipe: Recipe) -> Recipe:
    """The recipe, and each of its arms, with permission to fetch videos whose path is a web address."""
    configs = {}
    for name in ("keyframes", "bench_keyframes"):
        if (cfg := getattr(recipe, name)) is not None:
            configs[name] = cfg.model_copy(update={"remote": cfg.remote.model_copy(update={"allow_remote": True})})
    return recipe.model_copy(update=configs)


def arms_of(recipe: Recipe) -> dict[str, Recipe]:
    """Name -> recipe of every arm; a recipe without arms is one arm that carries its name.

    With several training seeds each arm that trains stands there once a seed, as 'arm', 'arm~1', 'arm~2' ...
    """
    arms = {arm: arm_recipe(recipe, arm) for arm in recipe.arms} if recipe.arms else {recipe.name: recipe}
    recipes = {}
    for arm, of_arm in arms.items():
        recipes[arm] = of_arm
        for further in range(1, recipe.seeds if of_arm.trains else 1):
            recipes[f"{arm}~{further}"] = of_arm.model_copy(update={"seed": recipe.seed + further})
    return recipes


def base_arm(arm: str) -> str:
    """The arm of the recipe that 'arm~1' is a further seed of."""
    return arm.partition("~")[0]
