"""Finds what grows by name (tasks, techniques, objectives, …), and imports one at a time.

A kind is a package; a member is one module of it, whose name is the member's name. The module
holds one class marked with `@KIND.register`. `base.py` is the contract, and what several members
share has its home in a package inside. Names come from the file listing, so that asking for them
imports nothing; `get` imports one module. Other distributions add members through entry points of
the group `tunesmith.<kind>s`. This module imports nothing of ours but `errors`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from tunesmith.errors import RecipeError, suggest

T = TypeVar("T", bound=type[Any])


class Registry(Generic[T]):
    """The members of one kind.

    Args:
        kind: the singular noun used in messages, such as `task`.
        package: the package whose modules are the members.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._members: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Mark a class as the member `name`; used as a decorator in the member's own module."""

        def mark(member: T) -> T:
            member.name = name
            self._members[name] = member
            return member

        return mark

    def names(self) -> tuple[str, ...]:
        """Return the names of all members, sorted; imports none of them."""
        spec = find_spec(self.package)
        paths = spec.submodule_search_locations if spec else None
        own = {found.name for found in pkgutil.iter_modules(paths) if not found.ispkg} - {"base"}
        return tuple(sorted(own | {point.name for point in self._entry_points}))

    def get(self, name: str) -> T:
        """Return the member called `name`, importing its module.

        Raises:
            RecipeError: no member has that name; the message suggests the nearest.
        """
        if name not in self._members:
            if name not in self.names():
                raise RecipeError(
                    f"There is no {self.kind} called {name!r}.", fix=suggest(name, self.names())
                )
            self._import(name)
        return self._members[name]

    def __iter__(self) -> Iterator[T]:
        return (self.get(name) for name in self.names())

    @cached_property
    def _entry_points(self) -> Any:
        return entry_points(group=f"tunesmith.{self.kind}s")

    def _import(self, name: str) -> None:
        for point in self._entry_points:
            if point.name == name:
                point.load()
                return
        importlib.import_module(f"{self.package}.{name}")


TASKS: Registry[Any] = Registry("task", "tunesmith.tasks")
TECHNIQUES: Registry[Any] = Registry("technique", "tunesmith.techniques")
OBJECTIVES: Registry[Any] = Registry("objective", "tunesmith.objectives")
OPERATIONS: Registry[Any] = Registry("operation", "tunesmith.models.surgery")
RETAINERS: Registry[Any] = Registry("retainer", "tunesmith.retain")
