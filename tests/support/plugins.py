"""The plugins of `docs/extending.md`: what stands there is what is run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.growth import TEMPLATE_SOURCES, VERBALIZER_SOURCES
from promptgraft.spaces import CUSTOM_PARAMETERS
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "extending.md"


def documented_plugins() -> dict[str, str]:
    """Module -> its code; each block begins with the name of its file."""
    blocks = [block.split("```")[0] for block in PAGE.read_text().split("```python\n")[1:]]
    return {block.split("\n")[0].removeprefix("# ").removesuffix(".py"): block for block in blocks}


def install(site: Path) -> dict[str, str]:
    """Install packages with the page's plugins, as pip would lay them out; return the environment that sees them."""
    for name, code in documented_plugins().items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[promptgraft.plugins]\n{name} = {name}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def loaded(name: str) -> Iterator[None]:
    """Run one of the page's plugins in this process, and forget what it registers."""
    from promptgraft.objectives.backbones import BACKBONES

    with ExitStack() as stack:
        for registry in (TEMPLATE_SOURCES, VERBALIZER_SOURCES, FAMILIES, BACKBONES, CUSTOM_PARAMETERS):
            stack.enter_context(registry.temporarily())
        exec(compile(documented_plugins()[name], f"{name}.py", "exec"), {"__name__": name})
        yield
