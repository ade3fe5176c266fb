"""What the pages show of the Python API fits its functions."""

import ast
import inspect
import re

import pytest

import promptgraft
from tests.support.paths import ROOT

CALLS = [
    (page, node)
    for page in ("README.md", "docs/python.md")
    for block in re.findall(r"```py(?:thon)?\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for node in ast.walk(ast.parse(block))
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("pg.", "winner."))
]


@pytest.mark.parametrize(("page", "call"), CALLS, ids=[f"{page} {ast.unparse(call.func)}" for page, call in CALLS])
def test_a_documented_call_is_possible(page: str, call: ast.Call) -> None:
    owner, name = ast.unparse(call.func).split(".")
    function = getattr(promptgraft if owner == "pg" else promptgraft.Winner, name)
    parameters = list(inspect.signature(function).parameters.values())[owner == "winner" :]
    positional = [parameter for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    given = [parameter.name for parameter in positional[: len(call.args)]] + [str(own.arg) for own in call.keywords]
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    assert len(call.args) <= len(positional)
    assert set(required) <= set(given) <= {parameter.name for parameter in parameters}


def test_both_pages_show_a_fit() -> None:
    assert {page for page, call in CALLS if ast.unparse(call.func) == "pg.fit"} == {"README.md", "docs/python.md"}
