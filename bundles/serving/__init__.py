"""A bundle behind HTTP: what it accepts and answers, and how rows are gathered for the models."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.bundles.serving.batcher import ServingLimits as ServingLimits
    from promptgraft.bundles.serving.listening import listen as listen
    from promptgraft.bundles.serving.server import create_app as create_app
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)
