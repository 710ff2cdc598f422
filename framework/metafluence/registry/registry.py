"""The registry: which components there are, where each comes from, and how one is built from configuration."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pluggy

from metafluence.errors import ConfigError, InputError, RegistryError, UnknownNameError
from metafluence.registry.description import Description, Parameter, describe
from metafluence.registry.importing import import_class
from metafluence.registry.parameters import interface_kind, validate

PROGRAM = "this program"
"""The origin of what is registered by a call to `Registry.add`, from no file and no plugin."""


@dataclass(frozen=True)
class Interface:
    """A kind of component: the class that defines it and one line."""

    kind: str
    at: str
    about: str


@dataclass(frozen=True)
class Entry:
    """A registered component.

    at: `module:Class` or `/path/file.py:Class`. params: those a preset sets. origin: who registered it.
    """

    kind: str
    name: str
    at: str
    about: str
    origin: str
    paper: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> Description:
        return describe(self.at)

    def documentation(self) -> str:
        return self.describe().documentation

    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters as written in the source; a preset's values stand as defaults."""
        return tuple(
            replace(p, default=str(self.params[p.name])) if p.name in self.params else p
            for p in self.describe().parameters
        )


class Snapshot(NamedTuple):
    """What a registry held at one moment."""

    interfaces: dict[str, Interface]
    entries: dict[str, dict[str, Entry]]
    disabled: dict[tuple[str, str], str]


class Registry:
    """Components by kind and name. `hooks` are the plugins that follow studies; `failures` those that did not load;
    `plugins` the distributions and versions of those that did, by name.

    Example:
        >>> from metafluence.registry import default_registry
        >>> registry = default_registry()
        >>> registry.build("solver", {"use": "cg", "rtol": 1e-6}).rtol
        1e-06
    """

    def __init__(self, hooks: pluggy.PluginManager) -> None:
        self._interfaces: dict[str, Interface] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        self._disabled: dict[tuple[str, str], str] = {}
        self.hooks = hooks
        self.failures: list[str] = []
        self.plugins: dict[str, str] = {}
        self.origin = PROGRAM

    def add_interface(self, kind: str, at: str, about: str) -> None:
        """Define a kind of component. A kind that exists is an error: what is built on it would change its meaning."""
        if kind in self._interfaces:
            raise RegistryError(f"{self.origin} defines the kind {kind!r}, which exists already. Choose another name.")
        self._interfaces[kind] = Interface(kind, at, about)
        self._entries.setdefault(kind, {})

    def add(
        self,
        kind: str,
        name: str,
        at: str,
        about: str = "",
        paper: str = "",
        params: dict[str, Any] | None = None,
        override: bool = False,
    ) -> None:
        """Register a component. A name that is taken is an error unless `override`; names are never changed."""
        taken = self._of(kind).get(name)
        if taken is not None and not override:
            raise RegistryError(
                f"{self.origin} registers the {kind} {name!r}, which {taken.origin} has already. "
                "Choose another name, or say override: true."
            )
        if ":" not in at:
            raise RegistryError(
                f"{self.origin}: the {kind} {name!r} is at {at!r}; write module:Class or ./file.py:Class."
            )
        at = relative_to(Path.cwd(), at)
        about = " ".join((about or describe(at).documentation.partition("\n\n")[0]).split())
        self._of(kind)[name] = Entry(kind, name, at, about, self.origin, paper, params or {})
        self._disabled.pop((kind, name), None)

    def disable(self, kind: str, name: str) -> None:
        """Take a component out of every list. One that is disabled already stays so."""
        if (kind, name) in self._disabled:
            return
        self.entry(kind, name)
        del self._entries[kind][name]
        self._disabled[kind, name] = self.origin

    def interfaces(self) -> list[Interface]:
        return list(self._interfaces.values())

    def kinds(self) -> list[str]:
        return list(self._interfaces)

    def names(self, kind: str) -> list[str]:
        return list(self._of(kind))

    def entries(self, kind: str | None = None) -> list[Entry]:
        """The components of one kind, or of all."""
        return [entry for one in ([kind] if kind else self.kinds()) for entry in self._of(one).values()]

    def entry(self, kind: str, name: str, asker: str = "") -> Entry:
        """Raises UnknownNameError with the nearest names, all names, where else the name is known, and who asks."""
        known = self._of(kind)
        if name in known:
            return known[name]
        elsewhere = [k for k, entries in self._entries.items() if name in entries]
        hint = f"There is a {elsewhere[0]} of that name." if elsewhere else ""
        if (kind, name) in self._disabled:
            hint = f"It was disabled in {self._disabled[kind, name]}."
        if asker:
            hint = f"{hint} It is asked for by {asker}.".strip()
        raise UnknownNameError(kind, name, known, hint)

    def load(self, kind: str, name: str) -> type:
        """The component's class. Raises RegistryError if it cannot be imported or is not of its kind."""
        entry = self.entry(kind, name)
        cls = import_class(entry.at, f"the {kind} {name!r} ({entry.origin})")
        interface = self.interface(kind)
        if not issubclass(cls, interface):
            raise RegistryError(
                f"{entry.at} is registered as a {kind} but is no {interface.__name__}. "
                f"Write: class {cls.__name__}({interface.__name__}), from metafluence import {interface.__name__}."
            )
        _check_form(cls, entry.at)
        return cls

    def name_of(self, component: Any) -> str:
        """What a component is called: the name of its class, not of a preset; else the class's own name."""
        cls = type(component)
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        places = (f"{cls.__module__}:{cls.__qualname__}", f"{file}:{cls.__qualname__}")
        known = (entry.name for entry in self.entries() if entry.at in places and not entry.params)
        return next(known, cls.__name__)

    def interface(self, kind: str) -> type:
        """The class that defines a kind."""
        self._of(kind)
        return import_class(self._interfaces[kind].at, f"the interface {kind}")

    def build(self, kind: str, spec: Any, path: str = "") -> Any:
        """A component from its name, from {use: name, parameter: value, ...}, or as it is where it is built already.

        Raises ConfigError naming the parameter (by `path` where nested), what was given and what is expected.
        """
        path = path or kind
        if isinstance(spec, self.interface(kind)):
            return spec
        if isinstance(spec, str):
            spec = {"use": spec}
        if (
            not isinstance(spec, dict)
            or not isinstance(spec.get("use"), str)
            or not all(isinstance(k, str) for k in spec)
        ):
            raise ConfigError(f"{path} is {spec!r}. Give a name, or a mapping with use: NAME and its parameters.")
        name = spec["use"]
        entry = self.entry(kind, name, path if path != kind else "")
        cls = self.load(kind, name)
        params = {**entry.params, **{k: v for k, v in spec.items() if k != "use"}}
        interfaces = {k: self.interface(k) for k in self._interfaces}

        def build_part(field_name: str, annotation: Any, value: Any) -> Any:
            part = interface_kind(annotation, interfaces)
            if part is not None and isinstance(value, str | dict):
                return self.build(part, value, f"{path}.{field_name}")
            return value

        values = validate(cls, params, f"{path} ({name}, {entry.origin})", build_part)
        try:
            return cls(**values)
        except InputError as error:
            raise ConfigError(f"{path}: {error}") from error
        except (TypeError, ValueError) as error:  # the component's own checks
            raise ConfigError(f"{path} ({name}, {entry.origin}) refuses its parameters: {error}") from error

    def _of(self, kind: str) -> dict[str, Entry]:
        if kind not in self._entries:
            raise UnknownNameError("kind of component", kind, self._entries)
        return self._entries[kind]

    def snapshot(self) -> Snapshot:
        """All that is registered, for `restore` to go back to when a plugin fails half-way."""
        entries = {kind: dict(entries) for kind, entries in self._entries.items()}
        return Snapshot(dict(self._interfaces), entries, dict(self._disabled))

    def restore(self, before: Snapshot) -> None:
        self._interfaces, self._entries, self._disabled = before


def _check_form(cls: type, at: str) -> None:
    """What `build` relies on: a frozen dataclass of its own, complete, whose annotations can be read."""
    # A subclass without the decorator looks like a dataclass, but its own fields would be lost.
    form = vars(cls).get("__dataclass_params__")
    if form is None or not form.frozen:
        lack = "no dataclass" if form is None else "not frozen"
        raise RegistryError(f"{at} is {lack}. Put @dataclass(frozen=True) above class {cls.__name__}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise RegistryError(f"{at} lacks what its interface asks for: {missing}. Write it in class {cls.__name__}.")
    try:
        get_type_hints(cls)
    except (NameError, TypeError, SyntaxError) as error:
        raise RegistryError(
            f"{at}: the type of a parameter cannot be read: {error}. Import or define it at the top of the file, "
            "outside `if TYPE_CHECKING`."
        ) from error


def preset(base: Entry, name: str, params: dict[str, Any]) -> Entry:
    """`base` under another name, with `params` over its own."""
    return replace(base, name=name, params={**base.params, **params})


def relative_to(folder: Path, at: str) -> str:
    """`./file.py:Class` made absolute; `module:Class` as it is."""
    place, colon, name = at.rpartition(":")
    return f"{(folder / place).resolve()}{colon}{name}" if place.endswith(".py") else at
