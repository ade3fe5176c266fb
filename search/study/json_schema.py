"""The schemas of study files and of bundles' manifests, and the reference of study files, which is made from them."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from promptgraft.search.study.schema import ConditionSection, EngineSection, ParameterSection, StudyFile

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTRODUCTION = """# Every key of a study file

Generated from the schema (`make docs`). What can be searched, and how it plays together: `docs/study-files.md`. Times
are numbers of seconds or text such as `8h`, sizes bytes or text such as `20GB`. A *parameter* is a value, a list of
choices, or a mapping with the keys of its own section."""

_NAMED = {ParameterSection: "A parameter", ConditionSection: "`when` of a parameter"}


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files."""
    return {"$schema": _DIALECT, **StudyFile.model_json_schema()}


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema of a bundle's manifest."""
    from promptgraft.bundles import Manifest

    return {"$schema": _DIALECT, **Manifest.model_json_schema()}


def study_reference() -> str:
    """Write every key of a study file with its type, default and meaning, in Markdown."""
    lines = [_INTRODUCTION]
    for title, section in _sections():
        lines += [
            "",
            f"## {title}",
            "",
            f"{(section.__doc__ or '').splitlines()[0]}",
            "",
            "| key | type | default | means |",
        ]
        lines.append("| --- | --- | --- | --- |")
        lines += [_row(name, field) for name, field in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every section once, under the first path that leads to it."""
    waiting: list[tuple[str, type[BaseModel]]] = [("The file", StudyFile)]
    seen = set[type[BaseModel]]()
    while waiting:
        title, section = waiting.pop(0)
        if section in seen:
            continue
        seen.add(section)
        yield title, section
        path = "" if section is StudyFile else f"{title.strip('`')}."
        for name, field in section.model_fields.items():
            for inner in _inner(field.annotation):
                own = _NAMED.get(inner) or f"`{path}{name}`"
                waiting.append((own, inner))


def _inner(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _inner(argument)]


def _row(name: str, field: FieldInfo) -> str:
    default = field.default
    shown = "" if default is None or isinstance(default, BaseModel) else f"`{_plain(default)}`"
    if isinstance(default, EngineSection):
        shown = f"`{default.name}`"
    shown = "**needed**" if default is PydanticUndefined else shown
    return f"| `{name}` | {_type(field.annotation)} | {shown} | {field.description} |"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    """Say what a value may be."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation in names:
        return names[annotation]
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    inner = _inner(annotation)
    if ParameterSection in inner:
        return "parameters by name" if getattr(annotation, "__origin__", None) is dict else "parameter"
    origin = getattr(annotation, "__origin__", None)
    if origin is dict:
        return "mapping"
    if inner:
        return "section"
    if origin is tuple:
        return "list"
    if all(isinstance(argument, str) for argument in arguments) and arguments:
        return ", ".join(f"`{argument}`" for argument in arguments)
    return " or ".join(dict.fromkeys(map(_type, arguments))) or "anything"
