"""Every way a component arrives: the shipped catalogue, installed plugins, and a registry.yaml of the user's own."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import yaml

import metafluence
from metafluence.errors import MetafluenceError, RegistryError, unknown
from metafluence.hooks import PROJECT, new_manager
from metafluence.registry import Registry, preset, relative_to
from metafluence.resources import resource


def default_registry(overlay: Path | None = None, folder: Path | None = None) -> Registry:
    """What ships, what is installed, then `folder`/registry.yaml if there is one, then the file `overlay`."""
    registry = Registry(new_manager())
    shipped = resource("registry.yaml")
    read_catalogue(registry, shipped, f"metafluence {metafluence.__version__}")
    for point in sorted(entry_points(group=PROJECT), key=lambda p: p.name):
        _plug_in(registry, point)
    own = (folder / "registry.yaml").resolve() if folder is not None else None
    if own is not None and own.is_file() and own != shipped:
        read_catalogue(registry, own, str(own))
    if overlay is not None and overlay.resolve() != own:
        read_catalogue(registry, overlay, str(overlay))
    return registry


@lru_cache(maxsize=1)
def _standard() -> Registry:
    return default_registry()


def build(kind: str, name: str, /, **params: Any) -> Any:
    """A component by its registered name: build("solver", "cg", rtol=1e-10). Raises ConfigError for bad parameters."""
    return _standard().build(kind, {"use": name, **params})


def read_catalogue(registry: Registry, file: Path, origin: str) -> None:
    """Add a registry.yaml. Raises RegistryError naming the file, the place and the mend."""
    try:
        raw = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise RegistryError(f"The registry {file} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise RegistryError(f"{file} is not valid YAML: {error}") from error
    _mapping(raw, file, "The file")
    for section in raw:
        if section not in ("interfaces", "components", "disabled"):
            raise RegistryError(f"{file}: {unknown('section', str(section), ('interfaces', 'components', 'disabled'))}")
    registry.origin = origin
    for kind, spec in _mapping(raw.get("interfaces") or {}, file, "interfaces").items():
        registry.add_interface(kind, spec["at"], spec["about"])
    waiting: list[tuple[str, str, dict[str, Any]]] = []
    for kind, components in _mapping(raw.get("components") or {}, file, "components").items():
        if kind not in registry.kinds():
            raise RegistryError(f"{file}: {unknown('kind of component', str(kind), registry.kinds())}")
        for name, spec in _mapping(components or {}, file, f"components.{kind}").items():
            given = {"at": spec} if isinstance(spec, str) else spec
            _mapping(given, file, f"components.{kind}.{name}")
            if "use" in given:
                waiting.append((kind, name, given))
            else:
                _add(registry, file, kind, name, given)
    _add_presets(registry, file, waiting)
    for kind, names in _mapping(raw.get("disabled") or {}, file, "disabled").items():
        for name in names:
            registry.disable(kind, name)


def _add(registry: Registry, file: Path, kind: str, name: str, spec: dict[str, Any]) -> None:
    allowed = ("at", "about", "paper", "override")
    for key in spec:
        if key not in allowed:
            raise RegistryError(
                f"{file}, components.{kind}.{name}: {unknown('key', str(key), allowed)} A preset says use: NAME."
            )
    if not isinstance(spec.get("at"), str):
        raise RegistryError(f"{file}, components.{kind}.{name}: say at: module:Class or ./file.py:Class, or use: NAME.")
    registry.add(
        kind,
        name,
        relative_to(file.resolve().parent, spec["at"]),
        spec.get("about", ""),
        spec.get("paper", ""),
        override=bool(spec.get("override")),
    )


def _add_presets(registry: Registry, file: Path, waiting: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Presets may stand on each other in any order; those that never find their ground are an error."""
    while waiting:
        pending = {(kind, name) for kind, name, _ in waiting}
        ready = [w for w in waiting if (w[0], w[2]["use"]) not in pending or w[2]["use"] == w[1]]
        if not ready:
            names = ", ".join(f"{kind} {name}" for kind, name, _ in waiting)
            raise RegistryError(f"{file}: these presets stand on each other in a circle: {names}.")
        for kind, name, spec in ready:
            params = {k: v for k, v in spec.items() if k not in ("use", "about", "override")}
            resolved = preset(registry.entry(kind, spec["use"]), name, params)
            shown = ", ".join(f"{k}={v}" for k, v in params.items())
            registry.add(
                kind,
                name,
                resolved.at,
                spec.get("about") or f"{spec['use']} with {shown}",
                resolved.paper,
                resolved.params,
                bool(spec.get("override")),
            )
        waiting = [w for w in waiting if w not in ready]


def _plug_in(registry: Registry, point: EntryPoint) -> None:
    """Load one installed plugin; if it fails, say so and leave everything as it was."""
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"
    before = registry.snapshot()
    registry.origin = f"plugin {point.name} ({distribution})"
    try:
        plugin = point.load()
        registry.hooks.register(plugin, point.name)
        register = getattr(plugin, "metafluence_register", None)
        if register is not None:
            register(registry)
    except Exception as error:
        if registry.hooks.has_plugin(point.name):
            registry.hooks.unregister(name=point.name)
        registry.restore(before)
        reason = str(error) if isinstance(error, MetafluenceError) else f"{type(error).__name__}: {error}"
        registry.failures.append(
            f"The plugin {point.name} ({distribution}) was left out: {reason}. Update or uninstall {distribution}."
        )


def _mapping(value: Any, file: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RegistryError(f"{file}: {where} is {value!r}; a mapping of names is expected.")
    return value
