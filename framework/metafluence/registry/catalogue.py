"""Every way a component arrives: the shipped catalogue, installed plugins, and a registry.yaml of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import metafluence
from metafluence.errors import MetafluenceError, RegistryError, UnknownNameError, unknown
from metafluence.hooks import PROJECT, check_plugin_api, new_manager
from metafluence.package_files import resource
from metafluence.registry.registry import PROGRAM, Entry, Registry, preset, relative_to
from metafluence.registry.yaml_text import read_yaml

SECTIONS = ("plugin_api", "interfaces", "components", "disabled")
"""What a registry.yaml may say."""


def default_registry(overlay: str | Path | None = None, folder: str | Path | None = None) -> Registry:
    """What ships, what is installed, then `folder`/registry.yaml if there is one, then the file `overlay`."""
    registry = Registry(new_manager())
    shipped = resource("registry.yaml")
    _add_catalogue(registry, shipped, f"metafluence {metafluence.__version__}", _shipped(shipped))
    for point in sorted(entry_points(group=PROJECT), key=lambda p: (p.name, _distribution(p))):
        _plug_in(registry, point)
    own = (Path(folder) / "registry.yaml").resolve() if folder is not None else None
    if own is not None and own.is_file() and own != shipped:
        read_catalogue(registry, own, str(own))
    if overlay is not None and Path(overlay).resolve() != own:
        read_catalogue(registry, Path(overlay), str(overlay))
    registry.origin = PROGRAM  # of what the caller adds from here on
    return registry


@lru_cache(maxsize=1)
def _shipped(file: Path) -> dict[str, Any]:
    """What the catalogue says that does not change while a program runs; it takes longer to read than to use."""
    return _read_yaml(file)


@lru_cache(maxsize=1)
def _standard() -> Registry:
    return default_registry()


def build(kind: str, name: str, /, **params: Any) -> Any:
    """A component by its registered name: build("solver", "cg", rtol=1e-10). Raises ConfigError for bad parameters."""
    return _standard().build(kind, {"use": name, **params})


def read_catalogue(registry: Registry, file: Path, origin: str) -> None:
    """Add a registry.yaml. Raises RegistryError naming the file, the place and how to fix it."""
    _add_catalogue(registry, file, origin, _read_yaml(file))


def _add_catalogue(registry: Registry, file: Path, origin: str, raw: dict[str, Any]) -> None:
    registry.origin = origin
    check_plugin_api(raw.get("plugin_api", 1), str(file))
    for kind, spec in _mapping(raw.get("interfaces") or {}, file, "interfaces").items():
        if not isinstance(spec, dict) or not all(isinstance(spec.get(key), str) for key in ("at", "about")):
            raise RegistryError(f"{file}, interfaces.{kind}: say {{at: module:Class, about: one line}}.")
        registry.add_interface(kind, spec["at"], spec["about"])
    waiting: list[tuple[str, str, dict[str, Any]]] = []
    for kind, components in _mapping(raw.get("components") or {}, file, "components").items():
        _check_kind(registry, file, kind)
        for name, spec in _mapping(components or {}, file, f"components.{kind}").items():
            given = {"at": spec} if isinstance(spec, str) else spec
            _mapping(given, file, f"components.{kind}.{name}")
            if "use" in given:
                _check_preset(file, f"components.{kind}.{name}", given)
                waiting.append((kind, name, given))
            else:
                _add(registry, file, kind, name, given)
    _add_presets(registry, file, waiting)
    for kind, names in _mapping(raw.get("disabled") or {}, file, "disabled").items():
        _check_kind(registry, file, kind)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RegistryError(
                f"{file}: disabled.{kind} is {names!r}; a list of names is expected. Write one, as [cg, exact]."
            )
        for name in names:
            with _named(file, f"disabled.{kind}"):
                registry.disable(kind, name)


def _read_yaml(file: Path) -> dict[str, Any]:
    raw = read_yaml(file, "registry", RegistryError)
    raw = _mapping({} if raw is None else raw, file, "The file")
    for section in raw:
        if section not in SECTIONS:
            raise RegistryError(f"{file}: {unknown('section', str(section), SECTIONS)}")
    return raw


def _check_kind(registry: Registry, file: Path, kind: str) -> None:
    if kind not in registry.kinds():
        raise RegistryError(f"{file}: {unknown('kind of component', kind, registry.kinds())}")


def _add(registry: Registry, file: Path, kind: str, name: str, spec: dict[str, Any]) -> None:
    allowed = ("at", "about", "paper", "params", "override")
    where = f"components.{kind}.{name}"
    for key in spec:
        if key not in allowed:
            raise RegistryError(f"{file}, {where}: {unknown('key', key, allowed)} A preset says use: NAME.")
    if not isinstance(spec.get("at"), str):
        raise RegistryError(f"{file}, {where}: say at: module:Class or ./file.py:Class, or use: NAME.")
    _check_words(file, where, spec)
    registry.add(
        kind,
        name,
        relative_to(file.resolve().parent, spec["at"]),
        spec.get("about", ""),
        spec.get("paper", ""),
        _mapping(spec.get("params") or {}, file, f"{where}.params"),
        spec.get("override", False),
    )


def _check_preset(file: Path, where: str, spec: dict[str, Any]) -> None:
    if not isinstance(spec["use"], str):
        raise RegistryError(f"{file}, {where}: use is {spec['use']!r}; the name of one component is expected. Give it.")
    if "at" in spec:
        raise RegistryError(f"{file}, {where}: say at: for a class or use: for a preset of a component, not both.")
    _check_words(file, where, spec, ("about",))


def _check_words(file: Path, where: str, spec: dict[str, Any], texts: tuple[str, ...] = ("about", "paper")) -> None:
    for key in texts:
        if not isinstance(spec.get(key, ""), str):
            raise RegistryError(
                f"{file}, {where}: {key} is {spec[key]!r}; one line of text is expected. Give it in quotes."
            )
    # "no" in quotes is a text, which Python would take for true.
    if not isinstance(spec.get("override", False), bool):
        raise RegistryError(
            f"{file}, {where}: override is {spec['override']!r}; true or false is expected. Write it without quotes."
        )


def _add_presets(registry: Registry, file: Path, waiting: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Presets may stand on each other in any order; those that never find their ground are an error."""
    while waiting:
        pending = {(kind, name) for kind, name, _ in waiting}
        ready = [w for w in waiting if (w[0], w[2]["use"]) not in pending or w[2]["use"] == w[1]]
        if not ready:
            names = ", ".join(f"{kind} {name}" for kind, name, _ in waiting)
            raise RegistryError(
                f"{file}: these presets stand on each other in a circle: {names}. Let one of them stand on a component."
            )
        for kind, name, spec in ready:
            params = {k: v for k, v in spec.items() if k not in ("use", "about", "override")}
            with _named(file, f"components.{kind}.{name}"):
                resolved = preset(registry.entry(kind, spec["use"]), name, params)
            shown = ", ".join(f"{k}={v}" for k, v in params.items())
            registry.add(
                kind,
                name,
                resolved.at,
                spec.get("about") or f"{spec['use']} with {shown}",
                resolved.paper,
                resolved.params,
                spec.get("override", False),
            )
        waiting = [w for w in waiting if w not in ready]


def _plug_in(registry: Registry, point: EntryPoint) -> None:
    """Load one installed plugin; if it fails, say so and leave everything as it was."""
    distribution = _distribution(point)
    before = registry.snapshot()
    registry.origin = f"plugin {point.name} ({distribution})"
    plugin = None
    try:
        _check_free(registry, point.name)
        plugin = point.load()
        check_plugin_api(getattr(plugin, "plugin_api", 1), f"The plugin {point.name}")
        registry.hooks.register(plugin, point.name)
        register = getattr(plugin, "metafluence_register", None)
        if register is not None:
            register(registry)
        for entry in _news(registry, before.entries):
            entry.describe()  # so that what cannot be found is left out here, and does not break a listing
        registry.plugins[point.name] = _distribution(point)
    except (Exception, SystemExit) as error:  # a module that calls sys.exit must not end the program
        if plugin is not None and registry.hooks.get_plugin(point.name) is plugin:
            registry.hooks.unregister(plugin)
        registry.restore(before)
        reason = str(error) if isinstance(error, MetafluenceError) else f"{type(error).__name__}: {error}"
        registry.failures.append(
            f"The plugin {point.name} ({distribution}) was left out: {reason.rstrip('.')}. "
            f"Update or uninstall {distribution}."
        )


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"


def _check_free(registry: Registry, name: str) -> None:
    if registry.hooks.has_plugin(name):
        raise RegistryError(f"Another installed package has a plugin called {name!r}, which was loaded first.")


def _news(registry: Registry, before: dict[str, dict[str, Entry]]) -> list[Entry]:
    return [e for e in registry.entries() if before.get(e.kind, {}).get(e.name) is not e]


@contextmanager
def _named(file: Path, where: str) -> Iterator[None]:
    """Say in which file, and where in it, an unknown name stands."""
    try:
        yield
    except UnknownNameError as error:
        raise RegistryError(f"{file}, {where}: {error}") from error


def _mapping(value: Any, file: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RegistryError(f"{file}: {where} is {value!r}; a mapping of names is expected. Write each as name: value.")
    for name in value:
        if not isinstance(name, str):  # YAML reads 3, on and no as a number and truth values
            raise RegistryError(f"{file}: {where} has the name {name!r}, which is no text. Put it in quotes.")
    return value
