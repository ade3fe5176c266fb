"""MLflow's registry of models as a registry of bundles: versions of a registered model, and its alias `champion`."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from promptgraft.bundles.registry.base import CHAMPION, MODELS, BundleRegistry
from promptgraft.spaces import InvalidInputError

if TYPE_CHECKING:
    from promptgraft.bundles import Manifest

# Tag of the registered model; number of the entry appended, so that the tags' order is that of events.
_ENTRY = "promptgraft.history."
_MODEL, _EXPERIMENT = "model", "promptgraft"


@contextmanager
def _asking(expected: str = "") -> Iterator[None]:
    """Tell what MLflow refuses as one error; pass over the one refusal that is expected, by its code."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != expected:
            raise InvalidInputError(
                f"MLflow at {mlflow.get_registry_uri()} refuses, or can't be asked: {error}"
            ) from error


class MlflowRegistry(BundleRegistry):
    """Versions of a registered model, on the server that MLFLOW_TRACKING_URI or MLFLOW_REGISTRY_URI names.

    A version is the pyfunc model of `promptgraft convert --to mlflow`, the whole bundle in it. MLflow has no locks: of
    two promotions at the same time, the later one stands.

    Args:
        name: The registered model's name; made by the first promotion.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = mlflow.MlflowClient()

    def __str__(self) -> str:
        return f"{MODELS}{self.name}"

    @property
    def champion(self) -> str:
        """The URI that `mlflow.pyfunc.load_model` takes."""
        return f"{MODELS}{self.name}@{CHAMPION}"

    def history(self) -> list[dict[str, Any]]:
        """List what became champion; see `Registry`."""
        tags: dict[str, str] = {}
        with _asking("RESOURCE_DOES_NOT_EXIST"):
            tags = self._client.get_registered_model(self.name).tags
        return [json.loads(tags[name]) for name in sorted(tags) if name.startswith(_ENTRY)]

    def _add(self, bundle: Path, manifest: "Manifest", version: int) -> int:  # noqa: ARG002
        with _asking("RESOURCE_ALREADY_EXISTS"):
            self._client.create_registered_model(self.name)
        with _asking():
            return self._upload(bundle, manifest)

    def _upload(self, bundle: Path, manifest: "Manifest") -> int:
        from promptgraft.bundles.formats import save_bundle

        client, about = self._client, manifest.origin
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = client.create_experiment(_EXPERIMENT) if found is None else found.experiment_id
        run = client.create_run(experiment, run_name=f"{manifest.study}-{manifest.trial}", tags=about).info.run_id
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / _MODEL
            save_bundle(bundle, manifest, folder)
            client.log_artifacts(run, str(folder), _MODEL)
        client.set_terminated(run)
        source = f"{client.get_run(run).info.artifact_uri}/{_MODEL}"
        return int(client.create_model_version(self.name, source, run, tags=about).version)

    def _check(self, version: int, digest: str) -> None:
        from promptgraft.bundles import MANIFEST_FILE, check_intact

        with _asking(), tempfile.TemporaryDirectory() as scratch:
            found = self._client.get_model_version(self.name, str(version))
            try:
                path = Path(mlflow.artifacts.download_artifacts(found.source, dst_path=scratch))
            except OSError as error:
                raise InvalidInputError(f"{self} version {version} can't be fetched: {error}") from error
            bundles = [file.parent for file in path.rglob(MANIFEST_FILE)]
            if len(bundles) != 1:
                raise InvalidInputError(f"{self} version {version} holds {len(bundles)} bundles in place of one")
            check_intact(bundles[0], digest)

    def _record(self, entry: dict[str, Any]) -> None:
        number = len(self.history())
        with _asking():
            self._client.set_registered_model_tag(self.name, f"{_ENTRY}{number:06d}", json.dumps(entry))

    def _point(self, version: int) -> None:
        with _asking():
            self._client.set_registered_model_alias(self.name, CHAMPION, str(version))
