"""A bundle as a model on the Hugging Face hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from promptgraft.bundles.folder import check_no_links, listed_files, read_examples, read_manifest
from promptgraft.spaces import InvalidInputError, PromptgraftError

HUB = "hf:"
_PLACE = re.compile(rf"{HUB}(\w[\w.-]*/\w[\w.-]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is planned.

    Attributes:
        folder: The bundle.
        repository: The model's name on the hub, `USER/NAME`.
        files: File -> its size in bytes.
        rows: Rows of the study that are in these files in clear text.
    """

    folder: Path
    repository: str
    files: Mapping[str, int]
    rows: int


def plan_upload(folder: Path, place: str) -> Upload:
    """Look at what `push` would upload; nothing is sent.

    Args:
        folder: The bundle.
        place: `hf:USER/NAME`.

    Raises:
        InvalidInputError: If the place isn't one, or the folder isn't what was exported.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InvalidInputError(f"expected {HUB}USER/NAME, got {place!r}")
    manifest = read_manifest(folder)
    check_no_links(folder, manifest)
    files = {name: (folder / name).stat().st_size for name in sorted(listed_files(manifest))}
    examples = read_examples(folder)
    rows = len(manifest.demonstrations) + (len(examples.rows) if examples else 0)
    return Upload(folder, found[1], files, rows)


def push(upload: Upload, *, private: bool = False) -> str:
    """Upload a bundle in one commit; the model is made if there is none yet.

    Args:
        upload: See `plan_upload`.
        private: Whether a model that is made now is private.

    Returns:
        Address of the commit.

    Raises:
        PromptgraftError: If the hub refuses, or can't be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(upload.repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repository,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
            commit_message=f"Upload {len(upload.files)} files of a promptgraft bundle",
        )
    except Exception as error:  # Its own errors, and those of whichever HTTP library it uses.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PromptgraftError(
            f"{upload.repository}: the hub at {api.endpoint} did not take it: {reason[0]}; log in with `hf auth "
            "login`, and see that HF_HUB_OFFLINE isn't set"
        ) from error
    return str(commit.commit_url)
