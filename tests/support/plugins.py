"""The plugins of the README and of `docs/extending.md`: what stands there is what is run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.growth import TEMPLATE_SOURCES, VERBALIZER_SOURCES
from promptgraft.spaces import CUSTOM_PARAMETERS
from tests.support.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "docs" / "extending.md")


def readme_plugins() -> dict[str, str]:
    """Module -> its code; each block begins with the name of its file."""
    blocks = [block.split("```")[0] for page in PAGES for block in page.read_text().split("```python\n")[1:]]
    return {block.split("\n")[0].removeprefix("# ").removesuffix(".py"): block for block in blocks}


def install(site: Path) -> dict[str, str]:
    """Install packages with the pages' plugins, as pip would lay them out; return the environment that sees them."""
    for name, code in readme_plugins().items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[promptgraft.plugins]\n{name} = {name}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def loaded(name: str) -> Iterator[None]:
    """Run one of the pages' plugins in this process, and forget what it registers."""
    from promptgraft.objectives.backbones import BACKBONES

    with ExitStack() as stack:
        for registry in (TEMPLATE_SOURCES, VERBALIZER_SOURCES, FAMILIES, BACKBONES, CUSTOM_PARAMETERS):
            stack.enter_context(registry.temporarily())
        exec(compile(readme_plugins()[name], f"{name}.py", "exec"), {"__name__": name})
        yield
