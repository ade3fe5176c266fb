"""What can be tried: templates, label words and parameters, and the candidates drawn from them."""

from promptgraft.spaces.candidates import Adapter, Candidate, Demonstrations, SoftPrompt, StudyFacts
from promptgraft.spaces.errors import InvalidInputError, PromptgraftError, TrialError
from promptgraft.spaces.parameters import Categorical, Condition, Constant, Float, Integer, Parameter
from promptgraft.spaces.search_space import SearchSpace
from promptgraft.spaces.templates import Block, RenderedPrompt, Template
from promptgraft.spaces.verbalizers import Verbalizer

__all__ = [
    "Adapter",
    "Block",
    "Candidate",
    "Categorical",
    "Condition",
    "Constant",
    "Demonstrations",
    "Float",
    "Integer",
    "InvalidInputError",
    "Parameter",
    "PromptgraftError",
    "RenderedPrompt",
    "SearchSpace",
    "SoftPrompt",
    "StudyFacts",
    "Template",
    "TrialError",
    "Verbalizer",
]
