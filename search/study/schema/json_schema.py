"""JSON Schemas of study files and bundle manifests, and the reference of study files that is generated from them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from promptgraft.search.study.schema.sections import ConditionSection, ParameterSection
from promptgraft.search.study.schema.study_file import EngineSection, StudyFile

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTRODUCTION = """# Every key of a study file

Generated from the schema (`make docs`). For an introduction see [study-files.md](study-files.md). Times are numbers of
seconds or text such as `8h`; sizes are numbers of bytes or text such as `20GB`. A *parameter* is a value, a list of
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
            "| key | type | default | meaning |",
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
        options = "".join(f", {name}: {_plain(value)}" for name, value in default.options.items())
        shown = f"`{{name: {default.name}{options}}}`" if options else f"`{default.name}`"
    shown = "**required**" if default is PydanticUndefined else shown
    return f"| `{name}` | {_type(_as_written(field.annotation, field.metadata))} | {shown} | {field.description} |"


def _as_written(annotation: Any, metadata: Sequence[Any]) -> Any:
    """Return the type that a file may give, short forms included, rather than the one that it becomes."""
    for entry in metadata:
        if isinstance(entry, BeforeValidator) and entry.json_schema_input_type is not PydanticUndefined:
            return entry.json_schema_input_type
    return annotation


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    """Describe the type of a value."""
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if get_origin(annotation) is Annotated:
        annotation = _as_written(get_args(annotation)[0], get_args(annotation)[1:])
    if annotation in names:
        return names[annotation]
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    inner = _inner(annotation)
    if ParameterSection in inner:
        return "parameters by name" if getattr(annotation, "__origin__", None) is dict else "parameter"
    origin = getattr(annotation, "__origin__", None)
    if origin is dict:
        return "mapping"
    if len(arguments) < 2 and inner:
        return "section"
    if origin is tuple:
        return "list"
    if all(isinstance(argument, str) for argument in arguments) and arguments:
        return ", ".join(f"`{argument}`" for argument in arguments)
    return " or ".join(dict.fromkeys(map(_type, arguments))) or "anything"
