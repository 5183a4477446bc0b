"""Code from outside of the package: `python:pkg.mod:Name` where a setting names an entry of a registry.

Reading settings imports no code, so that every folder can be inspected without it. Code runs only in a command that was given
`--allow-code` (`allow_code=True` in Python). It is imported from installed packages and from the folder in which the command
was given, never from a folder that m2raap wrote.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import read_object

if TYPE_CHECKING:
    from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

PATTERN = r"^python:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
# Set while code is allowed: the folder in which the command was given. Worker processes inherit it.
ALLOWED_FROM = "M2RAAP_ALLOW_CODE"
CODE_KEY = "code"  # of a stage's settings: name -> digest of the source file
_OWN_PACKAGES = ("m2raap", "data_tools")
_OWN_EXTENSIONS = ("data_tools.world.frame_truth",)  # modules of these packages that are extensions themselves
# A file that m2raap writes, and a key that it has there: marks of a folder that may come from somebody else.
_DATA_FILES = (
    ("manifest.json", "kind"), ("model.json", "made_from"), ("run.json", "recipe"), ("plan.json", "stage"),
    ("export.json", "kind"),
)  # fmt: skip
# Module -> path and digest of its file when it was imported: ever in this process, and as the running command uses it. A
# command imports a file once, so that a change while it runs has no effect.
_imported: dict[str, tuple[Path, str]] = {}
_current: dict[str, tuple[Path, str]] = {}
_added_paths: list[str] = []  # to sys.path


def is_extension(name: object) -> bool:
    """Whether a value is the name of an extension."""
    return isinstance(name, str) and re.fullmatch(PATTERN, name) is not None


def allow_code(allowed: bool) -> None:
    """Permits, or forbids, extensions for this process and the worker processes that it starts."""
    os.environ.pop(ALLOWED_FROM, None)
    _current.clear()
    while _added_paths:
        sys.path.remove(_added_paths.pop())
    if allowed:
        os.environ[ALLOWED_FROM] = os.getcwd()


@contextmanager
def code_allowed(allowed: bool) -> Iterator[None]:
    """Inside, extensions are permitted or forbidden; afterwards it is as before."""
    before = os.environ.get(ALLOWED_FROM)
    allow_code(allowed)
    try:
        yield
    finally:
        allow_code(False)
        if before is not None:
            os.environ[ALLOWED_FROM] = before


def load(name: str, key: str) -> Any:
    """The object that an extension names. `key`: the setting that names it, for messages.

    Raises UsageError where code is not allowed, the module is not there or of the standard library, of m2raap or of a folder
    that m2raap wrote, cannot be imported, or has no such name.
    """
    _, module_name, attribute = name.split(":")
    if module_name not in _current:
        _import(name, key)
    module = sys.modules[module_name]
    if not hasattr(module, attribute):
        names = [known for known, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        raise UsageError(
            f"{key}: {name}: {_current[module_name][0]} has no '{attribute}'; it defines {', '.join(names) or 'nothing'}"
        )
    value = getattr(module, attribute)
    if not callable(value):
        raise UsageError(f"{key}: {name} is a {type(value).__name__}: expected a function or a class")
    return value


def create(name: str, key: str, attributes: Sequence[str], *arguments: Any) -> Any:
    """What the class or function that an extension names returns for `arguments`. Raises UsageError as `load`, and where the
    result lacks one of the attributes."""
    value = load(name, key)(*arguments)
    if missing := [attribute for attribute in attributes if not hasattr(value, attribute)]:
        raise UsageError(f"{key}: what {name} returns has no {', '.join(missing)}")
    return value


def source_digest(name: str, key: str) -> str:
    """SHA-256 of the file in which an extension is defined, as it was when it was imported. Raises UsageError as `load`."""
    load(name, key)
    return _current[name.split(":")[1]][1]


def beside(name: str, key: str, attribute: str, default: Any) -> Any:
    """Another attribute of the module of an extension, or `default`. Raises UsageError as `load`."""
    load(name, key)
    return getattr(sys.modules[name.split(":")[1]], attribute, default)


def refuse_changed(code: Mapping[str, str], subject: str) -> None:
    """Raises M2raapError where an extension is another than the one whose digest was recorded. `code`: name -> digest."""
    for name, recorded in code.items():
        if (digest := source_digest(name, subject)) != recorded:
            path = _current[name.split(":")[1]][0]
            raise M2raapError(
                f"{subject}: was made with another version of {path} (SHA-256 {recorded[:12]}, now {digest[:12]}); bring that "
                "version back, or make it again"
            )


def code_of(settings: Any, key: str) -> dict[str, str]:
    """Name -> digest of the source file of every extension among the values and keys of `settings`; {} where there is none.

    `key` is the key of `settings` itself. Raises UsageError as `load`.
    """
    return dict(sorted((name, source_digest(name, path)) for path, name in _named(settings, key)))


def _named(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    """(key, name) of the extensions in plain values."""
    if is_extension(tree):
        yield key, tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            if is_extension(name) and value is not None:
                yield key, name
            yield from _named(value, f"{key}.{name}")
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _named(value, key)


def files_in_use(trace: str) -> list[str]:
    """The files of the extensions that the running command has imported; those that a printed traceback names, if any."""
    files = sorted({str(path) for path, _ in _current.values()})
    return [file for file in files if f'File "{file}"' in trace] or files


def code_in_use() -> str:
    """' (code in use: FILE)' for the end of a message about figures that the user's code may have spoilt; '' without code."""
    files = files_in_use("")
    return f" (code in use: {', '.join(files)})" if files else ""


def _import(name: str, key: str) -> None:
    module_name = name.split(":")[1]
    path, digest = _source(name, key)
    if module_name in sys.modules and _imported.get(module_name, (path, digest)) != (path, digest):
        del sys.modules[module_name]  # the file has changed since, or it was that of another folder
    try:
        module = _run_source(module_name, path, digest)
    except M2raapError:
        raise
    except (Exception, SystemExit) as error:  # a script may end with sys.exit
        raise UsageError(f"{key}: {name}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    if getattr(module, "__file__", None) != str(path):
        raise UsageError(f"{key}: {name}: another module {module_name} is in use; give yours a name of its own")
    _imported[module_name] = _current[module_name] = (path, digest)


class _FromSource(SourceFileLoader):
    """Runs the source whose digest is recorded: a cached .pyc may have been compiled from another one."""

    digest = ""

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        if hashlib.sha256(source).hexdigest() != self.digest:
            raise M2raapError(f"{self.path}: was changed while the command began; run it again")
        return self.source_to_code(source, self.path)


def _run_source(module_name: str, path: Path, digest: str) -> ModuleType:
    """Imports the packages above a module, and the module from its source file, unless that has been imported."""
    package = module_name.rpartition(".")[0]
    if package:
        importlib.import_module(package)
    if module_name in sys.modules or path.suffix != ".py":
        return importlib.import_module(module_name)
    loader = _FromSource(module_name, str(path))
    loader.digest = digest
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader, submodule_search_locations=places)
    assert spec is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(module_name, None)
        raise
    if package:
        setattr(sys.modules[package], module_name.rpartition(".")[2], module)
    return sys.modules[module_name]


def _source(name: str, key: str) -> tuple[Path, str]:
    """The file in which an extension is defined, found without importing anything, and its digest."""
    folder = os.environ.get(ALLOWED_FROM)
    if not folder:
        raise UsageError(
            f"{key}: {name} is code from outside of m2raap, which runs only with --allow-code (in Python allow_code=True)"
        )
    if folder not in sys.path:
        _added_paths.append(folder)
        sys.path.append(folder)  # last, so that no file of the folder takes the place of an installed module
    module_name = name.split(":")[1]
    package = module_name.partition(".")[0]
    is_own = package in (*_OWN_PACKAGES, "__main__") and module_name not in _OWN_EXTENSIONS
    if package in sys.stdlib_module_names or is_own:
        raise UsageError(f"{key}: {name}: give code of your own, and no module of Python or of m2raap")
    importlib.invalidate_caches()
    places: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:depth]), places)
        places = list(spec.submodule_search_locations or ()) if spec else []
        for place in [*places, *([str(Path(spec.origin).parent)] if spec and spec.origin else [])]:
            _refuse_data_folder(Path(place), f"{key}: {name}")
        if spec and spec.origin:  # the file itself may be a link
            _refuse_data_folder(Path(spec.origin).resolve().parent, f"{key}: {name}")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UsageError(f"{key}: {name}: there is no module {module_name} in {folder} or among the installed packages")
    path = Path(spec.origin)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _spec(module_name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    """Where a module would be imported from; unlike importlib.util.find_spec this imports no package above it."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(module_name, places)) is not None:
            return spec
    return None


def _refuse_data_folder(folder: Path, subject: str) -> None:
    resolved = folder.resolve()
    for above in dict.fromkeys((folder, *folder.parents, resolved, *resolved.parents)):
        for file, key in _DATA_FILES:
            if (above / file).is_file() and _holds(above / file, key):
                raise UsageError(
                    f"{subject}: {above} is a folder that m2raap wrote, and no code is run from such a folder"
                )


def _holds(path: Path, key: str) -> bool:
    try:
        return key in read_object(path)
    except M2raapError:  # another program's file
        return False


class OrExtension:
    """Mark of a field (`Annotated[Literal[...], OrExtension()]`) whose value may be an extension's name, too.

    `config`: for a union of configs, the config that such a name, or a mapping with such a `name`, becomes.
    """

    def __init__(self, config: type[BaseModel] | None = None) -> None:
        self.config = config

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        def validate(value: Any, inner: Any) -> Any:
            if self.config is None:
                return value if is_extension(value) else inner(value)
            if is_extension(value):
                return self.config(name=value)
            name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
            return self.config.model_validate(value) if is_extension(name) else inner(value)

        # Values are written by what they are: those of an extension are none of the type that the field names.
        serialization = core_schema.simple_ser_schema("any")
        return core_schema.no_info_wrap_validator_function(validate, handler(source), serialization=serialization)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        inner = handler(schema)
        outside = self.config.model_json_schema() if self.config else {"type": "string", "pattern": PATTERN}
        return {"anyOf": [inner, outside]}
