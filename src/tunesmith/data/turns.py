"""Reads the turns of one conversation from a row: OpenAI messages, ShareGPT turns, tools.

What is wrong is a `RowError`: the field (`messages[2].content`), what was found there, what was
expected. Rows, files and formats as a whole are `formats`' concern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.records import Conversation, Message

Row = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
_SAME_ROLE = {"developer": "system", "function": "tool"}
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "chatgpt": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "observation": "tool", "tool": "tool", "tool_response": "tool", "function_response": "tool",
}  # fmt: skip
"""Speakers of ShareGPT files, and the roles that they are."""
_CALLS = ("function_call", "tool_call")
_READ = frozenset(Message.model_fields)
_REASONING = ("reasoning_content", "reasoning", "thinking")
_UNREAD = frozenset({"refusal", "audio", "annotations", "function_call", "id"})


class RowError(Exception):
    """One field of one row is not what the format says.

    Args:
        field: its path, as `messages[2].content`.
        found: the value that stands there.
        expected: what should stand there, in words.
        missing: the fields that are there, where the field is absent.
    """

    def __init__(
        self, field: str, found: Any, expected: str, missing: Sequence[str] | None = None
    ) -> None:
        self.field = field
        if missing is None:
            problem = f"found {describe_value(found)}, expected {expected}"
        else:
            present = ", ".join(map(repr, missing)) or "no fields"
            problem = f"is missing (found {present}), expected {expected}"
        super().__init__(f"{field}: {problem}")


class NothingToLearnError(RowError):
    """A row is written as the format says, but nothing would be learnt of it."""


def describe_value(value: Any) -> str:
    """Return the type of a value in plain words, and the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, int | float):
        return f"{value} (a number)"
    if isinstance(value, str):
        if not value.strip():
            return "an empty text"
        return f"the text {value[:40]!r}{'...' if len(value) > 40 else ''}"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def text_field(row: Row, field: str, *, needed: bool = True, path: str | None = None) -> str:
    """Return the text in `field`; an absent or null one is `""` where it is not needed."""
    value = row.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise RowError(path or field, value, "a text")
    return value


def require_answer(conversation: Conversation, field: str) -> Conversation:
    """Return the conversation if the assistant says something in it.

    Raises:
        NothingToLearnError: it says nothing.
    """
    answers = [turn for turn in conversation.messages if turn.role == "assistant"]
    if not answers:
        expected = "at least one turn of the assistant: there is nothing to learn"
        raise NothingToLearnError(field, [], expected)
    if not any(turn.says_something for turn in answers):
        raise NothingToLearnError(field, "", "an answer: there is nothing to learn")
    return conversation


def read_messages(value: Any, path: str) -> list[Message]:
    """Read a list of OpenAI chat messages."""
    if not isinstance(value, list | tuple):
        raise RowError(path, value, "a list of messages")
    if not value:
        raise RowError(path, value, "at least one message")
    return [_message(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _message(item: Any, path: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(path, item, 'an object such as {"role": "user", "content": "Hi"}')
    if "role" not in item and "from" in item:
        raise RowError(
            f"{path}.role", None, 'a role (ShareGPT\'s "from" and "value" stand under '
            '"conversations", not "messages")', missing=sorted(item)
        )  # fmt: skip
    if "role" not in item:
        raise RowError(f"{path}.role", None, f"one of {', '.join(ROLES)}", missing=sorted(item))
    role = _SAME_ROLE.get(item["role"], item["role"]) if isinstance(item["role"], str) else None
    if role not in ROLES:
        raise RowError(f"{path}.role", item["role"], f"one of {', '.join(ROLES)}")
    fields = {name: value for name, value in item.items() if value is not None}
    unknown = sorted(
        set(fields) - _READ - {*_REASONING} - {n for n in _UNREAD if not fields.get(n)}
    )
    if unknown:
        raise RowError(
            f"{path}.{unknown[0]}",
            fields[unknown[0]],
            f"no such field (known: {', '.join(sorted(_READ))})",
        )
    reasoning = next((fields[name] for name in _REASONING if name in fields), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise RowError(f"{path}.reasoning_content", reasoning, "a text")
    calls = fields.get("tool_calls") or None
    content = _content(fields.get("content"), f"{path}.content", calls is not None)
    return Message(
        role=role,
        content=content,
        reasoning_content=reasoning,
        tool_calls=None if calls is None else _calls(calls, f"{path}.tool_calls"),
        tool_call_id=_optional_text(fields, "tool_call_id", path),
        name=_optional_text(fields, "name", path),
    )


def _optional_text(fields: Row, name: str, path: str) -> str | None:
    return text_field(fields, name, path=f"{path}.{name}") if name in fields else None


def _content(value: Any, path: str, may_lack: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None and may_lack:
        return ""
    if isinstance(value, list | tuple):
        return "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(value))
    raise RowError(path, value, "a text")


def _part(part: Any, path: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and "text" in part:
        return text_field(part, "text", path=f"{path}.text")
    kind = part.get("type") if isinstance(part, Mapping) else part
    raise RowError(path, kind, 'a text part {"type": "text", "text": "..."} (only text is learnt)')


def _calls(value: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(value, list | tuple):
        raise RowError(path, value, "a list of calls")
    return [_call(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _call(item: Any, path: str) -> dict[str, Any]:
    """Return a call as `{"type", "function": {"name", "arguments"}, ["id"]}`, arguments parsed."""
    if not isinstance(item, Mapping):
        raise RowError(path, item, "an object with a function in it")
    function = item.get("function", item)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{path}.function", function, 'an object with "name" and "arguments"')
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{path}.function.arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise RowError(f"{path}.function.arguments", arguments, "a JSON object")
    call = {
        "type": "function",
        "function": {"name": function["name"], "arguments": _without_nulls(arguments)},
    }
    return {**call, "id": item["id"]} if item.get("id") else call


def _without_nulls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Drop null arguments: a table (Parquet) writes one for each argument of any call."""
    return {name: value for name, value in arguments.items() if value is not None}


def _parsed(text: str, path: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise RowError(path, text, f"JSON ({error.msg} at column {error.colno})") from error


def read_tools(row: Row) -> list[dict[str, Any]] | None:
    """Read the tools on offer: a list of JSON schemas, or the same as a JSON text."""
    value = row.get("tools")
    if isinstance(value, str):
        value = _parsed(value, "tools") if value.strip() else None
    if not value:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
        raise RowError("tools", value, "a list of JSON schemas")
    return [_tool(dict(tool)) for tool in value]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


def read_sharegpt(value: Any) -> list[Message]:
    """Read a list of ShareGPT turns (`from`, `value`); calls of functions are JSON in `value`."""
    if not isinstance(value, list | tuple):
        raise RowError("conversations", value, "a list of turns")
    if not value:
        raise RowError("conversations", value, "at least one turn")
    return [_turn(item, f"conversations[{index}]") for index, item in enumerate(value)]


def _turn(item: Any, path: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(path, item, 'an object such as {"from": "human", "value": "Hi"}')
    if "from" not in item and "role" in item:
        raise RowError(
            f"{path}.from", None, 'a speaker (OpenAI\'s "role" and "content" stand under '
            '"messages", not "conversations")', missing=sorted(item)
        )  # fmt: skip
    speaker = item.get("from")
    role: Any = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError(f"{path}.from", speaker, f"one of {', '.join(SHAREGPT_ROLES)}")
    text = text_field(item, "value", path=f"{path}.value")
    if speaker in _CALLS:
        calls = _parsed(text, f"{path}.value")
        calls = calls if isinstance(calls, list) else [calls]
        return Message(role=role, tool_calls=_calls(calls, f"{path}.value"))
    return Message(role=role, content=text)
