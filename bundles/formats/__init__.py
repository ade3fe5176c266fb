"""A bundle in other formats: PEFT adapter, plain transformers model, ONNX, MLflow."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.bundles.formats.conversion import convert as convert
    from promptgraft.bundles.formats.mlflow import save_bundle as save_bundle
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)
