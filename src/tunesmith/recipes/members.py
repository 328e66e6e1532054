"""Recipes of several tasks at once: each member names its own data.

    task: {name: multitask, members: {NAME: {task, data}, …}} ──> data: the files of all of them

So that whoever asks a recipe for its data gets an answer, `data.train` of such a recipe lists what
the members learn from. It is made here and never written by hand. It knows no file system.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from tunesmith.registry import TASKS

MULTITASK = "multitask"


def with_data_of_members(recipe: Any) -> Any:
    """Return a recipe's mapping with the data of its members, where it has members.

    Raises:
        PydanticCustomError: it names other data beside them.
    """
    members = members_of(recipe)
    if not members:  # where it should have some, nothing else is to be said of it
        return {**recipe, "data": {"train": ["?"]}} if _is_of_several(recipe) else recipe
    files: list[str] = []
    for member in members.values():
        data = member.get("data") if isinstance(member, Mapping) else None
        train = data.get("train") if isinstance(data, Mapping) else None
        named = [train] if isinstance(train, str) else train if isinstance(train, list) else []
        files += [file for file in named if isinstance(file, str) and file not in files]
    found = recipe.get("data")
    given = found.get("train") if isinstance(found, Mapping) else found
    if given not in (None, files):
        raise PydanticCustomError(
            "conflict",
            "Each of several tasks names its own data, so there is none for all of them",
            {"key": "data", "fix": "Remove it: see task.members.NAME.data."},
        )
    return {**recipe, "data": {"train": files or ["?"]}}


def members_of(recipe: Any) -> Mapping[str, Any]:
    """Return the members of a recipe's task, as they are written; empty where it has none."""
    task = recipe["task"] if _is_of_several(recipe) else None
    members = task.get("members") if isinstance(task, Mapping) else None
    return members if isinstance(members, Mapping) else {}


def _is_of_several(recipe: Any) -> bool:
    """Whether it names the task, or has members under a name that no task has: a mistyped one."""
    task = recipe.get("task") if isinstance(recipe, Mapping) else None
    if not isinstance(task, Mapping):
        return bool(task == MULTITASK)
    return task.get("name") == MULTITASK or (
        "members" in task and task.get("name") not in TASKS.names()
    )
