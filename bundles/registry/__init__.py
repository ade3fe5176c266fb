"""Which bundle is the champion, in a folder or in MLflow; promotion and rollback."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.bundles.registry.open import open_registry as open_registry
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)
