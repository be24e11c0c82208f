"""The configuration reference: each key from the settings' types, its default and its words from the packaged YAML files."""
from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import source

NOWHERE = Path("/nonexistent/gpt-trader")  # no machine's and no user's settings reach the documentation


@dataclass(frozen=True)
class Key:
    """A setting: `path` begins with its file, `<name>` stands for a key that one chooses."""

    path: str
    allowed: str
    default: str | None  # as the packaged file writes it; None where the key belongs to a <name>
    words: str
    tighter: str = ""


@cache
def packaged() -> Any:
    """The packaged configuration alone."""
    from gpt_trader.core.config import load_config

    return load_config(None, etc=NOWHERE, user=NOWHERE)


def comment_of(line: str) -> str:
    """The comment that ends a line of YAML."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"", lambda m: "x" * len(m[0]), line)
    found = re.search(r"(?:^|\s)#\s*(.*)$", plain)
    return line[found.start(1):].strip() if found else ""


@cache
def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _comment_at(where: Any) -> str:
    return comment_of(_lines(where.file)[where.line - 1])


# ---------------------------------------------------------------- what a value may be
_PLAIN: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Decimal: "decimal number",
                          date: "date, as 2024-01-15", timedelta: "duration, as 30s, 5m, 2h or 1d"}


def _bounds(metadata: Any) -> str:
    found = []
    for mark in metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            value = getattr(mark, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
        pattern = getattr(mark, "pattern", None)
        if pattern:
            found.append(f"matching `{getattr(pattern, 'pattern', pattern)}`")
        found += [_bounds(mark.metadata)] if hasattr(mark, "metadata") and not hasattr(mark, "way") else []
    return ", ".join(filter(None, dict.fromkeys(found)))


def allowed(annotation: Any, metadata: Any = ()) -> str:
    """What a setting may hold, in words."""
    from gpt_trader.core import settings
    from gpt_trader.core.secret import Secret

    if annotation is getattr(settings, "Duration", None):
        return "duration, as 30s, 5m, 2h or 1d"
    if annotation is getattr(settings, "Threshold", None):
        return "number, or the key of one"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = [m for m in args[1:] if hasattr(m, "func")]
        if args[0] is timedelta and named:
            return _PLAIN[timedelta]
        if args[0] is float and any("number_or_key" in getattr(m.func, "__name__", "") for m in named):
            return "number, or the key of one"
        return allowed(args[0], (*args[1:], *metadata))
    if annotation is float and any("number_or_key" in getattr(getattr(m, "func", None), "__name__", "") for m in metadata):
        return "number, or the key of one"
    if annotation is timedelta:
        return _PLAIN[timedelta]
    if origin in (Union, types.UnionType):
        parts = [allowed(a, metadata) for a in args if a is not type(None)]
        return " or ".join(parts) + (" or null" if type(None) in args else "")
    if origin is Literal:
        return " | ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in args)
    if annotation is Secret:
        return "reference to a secret"
    if origin in (tuple, list):
        return f"list of: {allowed(args[0])}"
    if origin is dict:
        return f"mapping to: {allowed(args[1])}"
    words = _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))
    limits = _bounds(metadata)
    return f"{words}, {limits}" if limits else words


# ---------------------------------------------------------------- the keys
def _section(annotation: Any) -> Any | None:
    """The section type within an annotation, if there is one."""
    from gpt_trader.core.fields import Settings

    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for a in get_args(annotation):
        if (found := _section(a)) is not None:
            return found
    return None


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(a) for a in get_args(annotation) if get_origin(annotation) is Annotated)


def _walk(model: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name, info in model.model_fields.items():
        path = f"{prefix}.{info.alias or name}"
        inner = _section(info.annotation)
        if inner is None:
            yield path, model, (name, info)
        else:
            yield from _walk(inner, path + (".<name>" if _is_mapping(info.annotation) else ""))


def _matches(schema: str, key: str) -> bool:
    return re.fullmatch(re.escape(schema).replace(re.escape("<name>"), r"[^.]+") + r"(\..+)?", key) is not None


def _field_words(model: Any, name: str) -> str:
    for owner in model.__mro__:
        known = source.index().get(f"{owner.__module__}.{owner.__name__}")
        if known and known.fields.get(name):
            return known.fields[name]
    return ""


def keys() -> Iterator[Key]:
    """Every setting there is."""
    from gpt_trader.core.config import FILES
    from gpt_trader.core.fields import Tighter

    config = packaged()
    for file, model in FILES.items():
        for path, owner, (name, info) in _walk(model, file):
            here = [k for k in config.provenance if _matches(path, k)]
            words = [_field_words(owner, name)]
            if "<name>" not in path or path.startswith("models."):  # a head's numbers are explained one by one in models.yaml
                words += [_comment_at(config.provenance[k]) for k in here]
            default = None
            if "<name>" not in path:
                default = _written(config, path, here, info)
            ways = [m.way for m in info.metadata if isinstance(m, Tighter)]
            yield Key(path, allowed(info.annotation, info.metadata), default, "; ".join(dict.fromkeys(filter(None, words))),
                      ways[0] if ways else "")


def _written(config: Any, path: str, here: list[str], info: Any) -> str:
    if path in config.raw:
        where = config.provenance[path]
        line = _lines(where.file)[where.line - 1]
        plain = line.split(": ", 1)[1] if ": " in line else ""
        return plain.removesuffix(f"# {comment_of(line)}").strip() if comment_of(line) else plain.strip()
    if here:
        return ", ".join(f"{k.removeprefix(path + '.')}: {_short(config.raw[k])}" for k in here)
    return "empty" if not info.is_required() and not info.default else "–" if info.is_required() else str(info.default)


def _short(value: Any) -> str:
    return f"{len(value)} from {value[0]} to {value[-1]}" if isinstance(value, list) and len(value) > 8 else str(value)


def sections() -> Mapping[str, list[Key]]:
    """The keys by section, in the order of the files."""
    found: dict[str, list[Key]] = {}
    for key in keys():
        found.setdefault(key.path.rpartition(".")[0], []).append(key)
    return found
