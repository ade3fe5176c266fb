"""The search space, which turns an Optuna trial into a candidate (define-by-run)."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

from promptgraft.spaces.candidate_parts import Decoding, SoftPrompt
from promptgraft.spaces.candidates import Candidate
from promptgraft.spaces.dimensions import describe, dimension_of
from promptgraft.spaces.errors import InvalidInputError, did_you_mean
from promptgraft.spaces.parameters import (
    Categorical,
    Constant,
    Parameter,
    Scalar,
    StudyFacts,
    SuggestingTrial,
    extremes,
)
from promptgraft.spaces.templates import Template, content_hash
from promptgraft.spaces.verbalizers import Verbalizer

T = TypeVar("T", Template, Verbalizer)

BACKBONE = "backbone"


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The search space of one study.

    Attributes:
        templates: The pool of templates.
        verbalizers: The pool of verbalizers; may be empty where no head reads label words.
        parameters: The searched or fixed fields of a candidate, in the order in which they are suggested; other fields
            keep their defaults.
        facts: What decides which hyperparameters can have an effect.
        backbones: The space on each backbone, by name, if the study names them; see `over`.

    Raises:
        InvalidInputError: If there is no template, or no verbalizer though a head needs one; if a pool contains the
            same text twice, a condition names an unknown or later parameter, a value is not supported by the study, or
            two values are not supported together.
    """

    templates: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]
    parameters: tuple[Parameter, ...]
    facts: StudyFacts
    backbones: Mapping[str, "SearchSpace"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.backbones:
            return  # Each of them was checked.
        if not self.templates:
            raise InvalidInputError("the space has no template; give at least one")
        heads = next((extremes(parameter) for parameter in self.parameters if parameter.name == "head"), ())
        if not self.verbalizers and not (heads and "label_words" not in heads):
            raise InvalidInputError("the space has no verbalizer; give at least one")
        for first, second in _pairs(self.templates):
            if first.text == second.text:
                raise InvalidInputError(f"templates {first.name!r} and {second.name!r} have the same text; remove one")
        seen = ["template", "verbalizer"]
        for parameter in self.parameters:
            check_parameter(parameter, self.facts)
            if parameter.when is not None and parameter.when.parameter not in seen:
                raise InvalidInputError(
                    f"{parameter.name} depends on {parameter.when.parameter!r}, which is not suggested before it; "
                    f"{did_you_mean(parameter.when.parameter, seen)}"
                )
            seen.append(parameter.name)
        _check_titles({parameter.name: extremes(parameter) for parameter in self.parameters})
        _check_soft_prompts({parameter.name: parameter for parameter in self.parameters})

    @classmethod
    def over(cls, backbones: Mapping[str, "SearchSpace"]) -> "SearchSpace":
        """Join the spaces of several backbones, of which a trial draws one, and then a point of its space.

        A parameter has its own name where all backbones on which it is searched have the same choices or range;
        elsewhere each has a parameter of its own, such as `frozen_layers@small`.

        Args:
            backbones: Name -> space.
        """
        spaces = list(backbones.values())
        facts = {name: space.facts for name, space in backbones.items()}
        return cls(
            _joined(space.templates for space in spaces),
            _joined(space.verbalizers for space in spaces),
            _with_own_names(backbones),
            replace(spaces[0].facts, backbones=facts),
            backbones,
        )

    def on(self, backbone: str) -> "SearchSpace":
        """Return the space on a backbone, by its name; the space itself if the study doesn't name its backbones."""
        if not self.backbones:
            return self
        if backbone not in self.backbones:
            raise InvalidInputError(f"unknown backbone {backbone!r}; {did_you_mean(backbone, self.backbones)}")
        return self.backbones[backbone]

    def names_on(self, backbone: str) -> dict[str, str]:
        """Return what a trial calls those parameters of a backbone that have a name of their own; see `over`."""
        end = f"@{backbone}"
        return {own.name.removesuffix(end): own.name for own in self.parameters if own.name.endswith(end)}

    def suggest(self, trial: SuggestingTrial, names: Mapping[str, str] | None = None) -> Candidate:
        """Suggest a candidate.

        Args:
            trial: An Optuna trial, or an object with the same methods.
            names: What the trial calls parameters, if not by their names.

        Returns:
            The candidate in canonical form.
        """
        if self.backbones:
            backbone = str(_pool(BACKBONE, tuple(self.backbones)).suggest(trial))
            return replace(self.on(backbone).suggest(trial, self.names_on(backbone)), backbone=backbone)
        values: dict[str, Scalar] = {}
        for parameter in self.all_parameters():
            if parameter.when is None or parameter.when.holds(values):
                name = names.get(parameter.name, parameter.name) if names else parameter.name
                values[parameter.name] = replace(parameter, name=name).suggest(trial)
        candidate = Candidate.from_values(values)
        soft = candidate.soft_prompt
        if soft.init == "template" and not self.template(candidate.template).words:
            candidate = replace(candidate, soft_prompt=replace(soft, init="vocabulary"))
        # Whatever the template, the outcome is the same.
        if candidate.ignores_text or not self.facts.reads_texts(candidate.head):
            candidate = replace(candidate, template=self.templates[0].id)
        return candidate.canonical(self.facts)

    def with_more(self, templates: Sequence[Template], verbalizers: Sequence[Verbalizer]) -> "SearchSpace":
        """Return the space with more templates and verbalizers; texts and words that it contains are left out."""
        texts = {template.text for template in self.templates}
        words = [dict(verbalizer.words) for verbalizer in self.verbalizers]
        new = tuple(entry for entry in templates if entry.text not in texts)
        new_words = tuple(entry for entry in verbalizers if dict(entry.words) not in words)
        if self.backbones:
            known = self.backbones.items()
            return SearchSpace.over({name: own.with_more(new, new_words) for name, own in known})
        return replace(self, templates=(*self.templates, *new), verbalizers=(*self.verbalizers, *new_words))

    def template(self, template_id: str) -> Template:
        """Return a template by its id."""
        return _by_id("template", self.templates, template_id)

    def verbalizer(self, verbalizer_id: str) -> Verbalizer:
        """Return a verbalizer by its id."""
        return _by_id("verbalizer", self.verbalizers, verbalizer_id)

    @property
    def first_verbalizer(self) -> str:
        """Id of the first verbalizer; empty if there is none."""
        return self.verbalizers[0].id if self.verbalizers else ""

    @property
    def first_decoding(self) -> Decoding:
        """How texts are written where nothing is searched: the first choices, or lower ends, of the space."""
        first = {parameter.name: extremes(parameter)[0] for parameter in self.parameters}
        values = {name: value for name, value in first.items() if name.startswith("decoding.")}
        return Candidate.from_values({"template": "", "verbalizer": "", **values}).decoding

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides which candidates can be suggested, 16 hexadecimal digits."""
        facts = {name: value for name, value in _content(asdict(self.facts)).items() if value or name != "backbones"}
        content = {"parameters": [describe(p) for p in self.all_parameters()], "facts": facts}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def all_parameters(self) -> tuple[Parameter, ...]:
        """Return all parameters, backbone and pools first, in the order in which they are suggested."""
        if self.backbones:
            return (_pool(BACKBONE, tuple(self.backbones)), *self.parameters)
        pools = (
            _pool("template", tuple(template.id for template in self.templates)),
            _pool("verbalizer", tuple(verbalizer.id for verbalizer in self.verbalizers)),
        )
        return pools + self.parameters


def check_parameter(parameter: Parameter, facts: StudyFacts) -> None:
    """Refuse values that the study does not support; `objectives.backbones` knows what its backbone does not.

    Raises:
        InvalidInputError: If a value is not supported.
    """
    dimension_of(parameter.name)
    for value in extremes(parameter):
        needs_source = (parameter.name in ("alpha", "source_steps") and value) or (
            parameter.name == "soft_prompt.init" and value == "source"
        )
        if parameter.name == "source" and value not in facts.sources:
            hint = did_you_mean(str(value), facts.sources) if facts.sources else "name several under `sources`"
            raise InvalidInputError(f"source {value!r} is not among the study's sources; {hint}")
        if needs_source and not facts.has_source:
            raise InvalidInputError(f"{parameter.name} is {value} but the study names no source task")


def _check_titles(values: Mapping[str, Sequence[Scalar]]) -> None:
    if "titles" in values.get("head", ()) and "none" in values.get("prior", ["none"]):
        raise InvalidInputError(
            "head 'titles' scores the items that a prior ranks first, and prior may be 'none'; give priors alone, "
            "such as prior: [popularity, neighbours, ease]"
        )


def _check_soft_prompts(parameters: Mapping[str, Parameter]) -> None:
    """Refuse places and networks of soft prompts that could be suggested together, but are not supported together."""
    places, networks = (parameters.get(f"soft_prompt.{name}") for name in ("place", "parametrization"))
    if places is None or networks is None:
        return
    for place, network in product(extremes(places), extremes(networks)):
        when = networks.when
        if when is None or when.parameter != places.name or when.holds({places.name: place}):
            SoftPrompt(1, place=str(place), parametrization=str(network)).check()


def _content(facts: dict[str, Any]) -> dict[str, Any]:
    """Leave out of facts what came later and says nothing, so that other fingerprints stay as they are."""
    own = {name: value for name, value in facts.items() if value or name != "texts_of_labels"}
    return own | {"backbones": {name: _content(other) for name, other in facts["backbones"].items()}}


def _pool(name: str, ids: tuple[str, ...]) -> Parameter:
    return Categorical(name, ids) if len(ids) > 1 else Constant(name, ids[0] if ids else "")


def _joined(pools: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    """Join pools, each entry once."""
    return tuple({entry.id: entry for pool in pools for entry in pool}.values())


def _with_own_names(backbones: Mapping[str, SearchSpace]) -> tuple[Parameter, ...]:
    """Join the parameters of several backbones; see `SearchSpace.over`."""
    variants: dict[str, dict[str, Parameter]] = {}
    for backbone, space in backbones.items():
        for parameter in space.all_parameters():
            variants.setdefault(parameter.name, {})[backbone] = parameter
    found: list[Parameter] = []
    for name, own in variants.items():
        searched: list[Parameter] = [one for one in own.values() if not isinstance(one, Constant)]
        searched = searched or list(own.values())
        if all(replace(one, when=None) == replace(searched[0], when=None) for one in searched):
            found.append(searched[0])
        else:
            found += [replace(one, name=f"{name}@{backbone}") for backbone, one in own.items()]
    return tuple(found)


def _pairs(templates: tuple[Template, ...]) -> list[tuple[Template, Template]]:
    return [(a, b) for i, a in enumerate(templates) for b in templates[i + 1 :]]


def _by_id(what: str, pool: tuple[T, ...], key: str) -> T:
    entries = {entry.id: entry for entry in pool}
    if key not in entries:
        # The same content by another name, such as a template that joined and was then added to the study file.
        for entry in pool:
            if content_hash(entry.id) == content_hash(key):
                return entry
        raise InvalidInputError(f"unknown {what} id {key!r}; {did_you_mean(key, entries)}")
    return entries[key]
