"""Jinja's sandbox with a budget: what a template may take of time and memory, whatever stands in it.

Every loop, call, filter, test, operator and output is charged for the sizes of what goes in and comes out, before it is
computed where it could be large. So a template ends within a fraction of a second, or is refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# In characters that are copied. Without values a template may take 100,000 steps, which is 0.2 s.
BUDGET, PER_CHARACTER, STEP = 5_000_000, 20, 50
# Longest template, in characters; how deep its parts may be in one another, since compiling takes the cube of that; and
# the largest number that may be the width of something.
MAX_TEXT, MAX_DEPTH, MAX_WIDTH = 60_000, 60, 10_000
_WIDE = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round", "tojson", "to_bytes")
_LONG_NUMBER = re.compile(r"[{%][^}a-zA-Z%]*\d{5}")
_SIZED_BY_VALUE = re.compile(r"\{[^{}]*\{|%[^a-zA-Z%]*\*")


class TemplateBudgetError(jinja2.TemplateRuntimeError):
    """A template takes too long, or makes too much."""


@dataclass(slots=True)
class _Budget:
    """What is left of a rendering's budget.

    Attributes:
        left: What may still be charged.
        step: What a step costs: a loop's body may print the whole template.
    """

    left: int
    step: int

    def charge(self, amount: int) -> None:
        """Take an amount off."""
        self.left -= amount
        if self.left < 0:
            raise TemplateBudgetError("it takes too long, or makes too much text; make its loops and texts smaller")


_current: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def budget(text: str, values: Iterable[str] = ()) -> Iterator[None]:
    """Render a template within a budget.

    Args:
        text: The template.
        values: The values of its fields: long ones may take longer.

    Raises:
        TemplateBudgetError: If it takes more.
    """
    left = BUDGET + PER_CHARACTER * sum(map(len, values))
    token = _current.set(_Budget(left, STEP + len(text)))
    try:
        yield
    finally:
        _current.reset(token)


def weighed(value: Any) -> Any:
    """Charge for a value's size, and return it."""
    spent = _current.get()
    if isinstance(value, str | bytes):
        spent.charge(STEP + len(value))
    elif isinstance(value, int):
        spent.charge(STEP + value.bit_length() ** 2 // 10_000)
    elif isinstance(value, range):
        spent.charge(STEP * (1 + len(value)))
    else:
        spent.charge(STEP)
        if isinstance(value, list | tuple | set | frozenset):
            for inner in value:
                weighed(inner)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                weighed(key)
                weighed(inner)
    return value


@jinja2.pass_context
def _output(_: Context, value: Any) -> Any:
    """Charge for what is printed."""
    return weighed(value)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    """Charge for each turn of a loop."""
    spent = _current.get()
    for value in values:
        spent.charge(spent.step)
        yield value


def _foresee(name: str, operands: list[Any]) -> None:
    """Charge for what a call could make, before it is made.

    Args:
        name: Name of a filter, or of a method of texts or numbers.
        operands: What it acts on first.
    """
    spent = _current.get()
    for operand in operands:
        weighed(operand)
    if not operands:
        return
    first, others = operands[0], operands[1:]
    numbers = [entry for entry in operands if isinstance(entry, int)]
    if name in _WIDE:
        width = max((abs(number) for number in numbers), default=0)
        if width > MAX_WIDTH:
            raise TemplateBudgetError(f"{name} may be at most {MAX_WIDTH} wide, got {width}")
        spent.charge(width * (1 + sum(first.count(mark) for mark in "\n\t") if isinstance(first, str) else 1))
    if name in ("format", "format_map", "%") and isinstance(first, str):
        if _LONG_NUMBER.search(first) or _SIZED_BY_VALUE.search(first):
            raise TemplateBudgetError(f"{name} may be at most {MAX_WIDTH} wide, and says so in digits")
        spent.charge(first.count("%") * STEP + first.count("{") * STEP)
        if re.search(r"\d{3}", first):
            spent.charge(MAX_WIDTH * (first.count("%") + first.count("{")))
    if name == "translate" or (name == "sum" and any(isinstance(entry, list | tuple | str) for entry in others)):
        raise TemplateBudgetError(f"{name} is not allowed here")
    if hasattr(first, "__len__") and name != "%":
        texts = sum(len(entry) for entry in others if isinstance(entry, str | bytes))
        items = sum(len(entry) for entry in others if isinstance(entry, list | tuple))
        spent.charge(len(first) * (texts + items))


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter or test charge for what goes in and comes out."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [entry for entry in args if not isinstance(entry, Context | nodes.EvalContext | jinja2.Environment)]
        if name == "join" and given and not hasattr(given[0], "__len__"):
            place = args.index(given[0])
            given[0] = [weighed(entry) for entry in given[0]]
            args = (*args[:place], given[0], *args[place + 1 :])
        _foresee(name, [*given, *kwargs.values()])
        return weighed(function(*args, **kwargs))

    return call


class BudgetedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which everything is charged."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        # Nothing is computed while a template is compiled, be it of constants alone: that would be outside the budget.
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            optimized=False,
            finalize=_output,
        )
        self.globals.pop("lipsum")
        filters: Mapping[str, Any] = self.filters
        tests: Mapping[str, Any] = self.tests
        self.filters = {name: _guarded(name, function) for name, function in filters.items()}
        self.filters |= {"_each": _each, "_weighed": weighed}
        self.tests = {name: _guarded(name, function) for name, function in tests.items()}

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Charge for a call of a function, macro or method."""
        spent = _current.get()
        spent.charge(spent.step)
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # The sandbox wraps `format`.
        acts_on = [owner] if isinstance(owner, str | bytes | int | float | list | tuple | dict) else []
        _foresee(getattr(__obj, "__name__", "") if acts_on else "", [*acts_on, *args, *kwargs.values()])
        return weighed(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Charge for an operator."""
        spent = _current.get()
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if hasattr(many, "__len__") and isinstance(times, int):
                    spent.charge(STEP * len(many) * max(0, times) if not isinstance(many, str) else len(many) * times)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            spent.charge((left.bit_length() * abs(right)) ** 2 // 10_000)
        _foresee(operator, [left, right])
        return weighed(super().call_binop(context, operator, left, right))

    def compiled(self, text: str) -> jinja2.Template:
        """Compile a template, its loops and texts counted.

        Raises:
            TemplateError: If it isn't valid, or too long.
        """
        code = self.compile(_Counting().visit(self.checked(text)))
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    def checked(self, text: str) -> nodes.Template:
        """Parse a template.

        Raises:
            TemplateSyntaxError: If it isn't valid.
            TemplateBudgetError: If it is too long.
        """
        if len(text) > MAX_TEXT:
            raise TemplateBudgetError(f"it has {len(text)} characters, more than {MAX_TEXT}")
        tree = self.parse(text)
        if _depth(tree) > MAX_DEPTH:
            raise TemplateBudgetError(f"its parts are in one another more than {MAX_DEPTH} deep")
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise TemplateBudgetError("recursive loops are not allowed")
        return tree


class _Counting(NodeTransformer):
    """Lets the parts of a template that aren't calls charge for themselves."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "_weighed")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "_weighed")
        return node

    def _weigh(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _filtered(node, "_weighed")

    visit_Concat = visit_Getitem = visit_List = visit_Tuple = visit_Dict = _weigh  # noqa: N815


def _depth(node: nodes.Node) -> int:
    return 1 + max((_depth(child) for child in node.iter_child_nodes()), default=0)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
