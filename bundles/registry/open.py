"""Opening a registry of bundles by its place."""

from pathlib import Path

from promptgraft.bundles.registry.base import MODELS, BundleRegistry
from promptgraft.bundles.registry.folder import FolderRegistry


def open_registry(place: str) -> BundleRegistry:
    """Return the registry at a folder's path, or at `models:/NAME` in MLflow."""
    if place.startswith(MODELS):
        from promptgraft.bundles.registry.mlflow import MlflowRegistry

        return MlflowRegistry(place.removeprefix(MODELS))
    return FolderRegistry(Path(place))
