"""A search space as text that can stand in a study file."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from promptgraft.search.study.schema import StudyFile


def space_text(file: StudyFile) -> str:
    """Write the space of a study, and how its sources are trained, as parts of its study file.

    Args:
        file: The study file, with its space filled in.
    """
    content: dict[str, Any] = {}
    training = {name: _content(section.training) for name, section in file.all_sources().items()}
    if file.source is not None:
        content["source"] = {"training": training[""]}
    if file.sources:
        content["sources"] = {name: {"training": training[name]} for name in file.sources}
    if file.space is not None:
        content["space"] = _shortened(file.space.model_dump(mode="json", exclude_defaults=True))
    yaml, written = YAML(), StringIO()
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.dump(content, written)
    return written.getvalue()


def _content(section: Any) -> dict[str, Any]:
    content: dict[str, Any] = section.model_dump(mode="json")
    return content


def _shortened(value: Any) -> Any:
    """Write choices as a list, and a single one as a value, as a study file may."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"choices"}:
        return value["choices"][0] if len(value["choices"]) == 1 else value["choices"]
    return {name: _shortened(inner) for name, inner in value.items()}
