"""Check built distributions: what the wheel holds, and that the sdist builds the same one.

    python tests/check_distribution.py WHEEL WHEEL_FROM_SDIST
    python tests/check_distribution.py                          # what is installed for this Python

Part of `make wheel`; needs the standard library only.
"""

import importlib
import sys
import zipfile
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("spaces", "objectives", "bundles", "search")
SUFFIXES = (".py", ".j2", ".typed")
LICENCES = ("LICENSE", "NOTICE")


def expected_files() -> set[str]:
    """Return what the package must hold, as paths in the wheel, from what the repository holds."""
    package = ROOT / ".package" / "promptgraft"
    found = {f"promptgraft/{file.name}" for file in package.iterdir() if file.suffix in SUFFIXES}
    for layer in LAYERS:
        inside = [file for file in (ROOT / layer).rglob("*") if file.suffix in SUFFIXES]
        found |= {f"promptgraft/{file.relative_to(ROOT).as_posix()}" for file in inside}
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    """Return a wheel's files by path, without the list of their hashes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def problems(held: set[str]) -> list[str]:
    """Compare the files of a wheel, or of what is installed, with the repository.

    Args:
        held: Paths, as in the wheel.

    Returns:
        What is wrong, one line each.
    """
    expected = expected_files()
    package = {name for name in held if name.startswith("promptgraft/") and Path(name).suffix in SUFFIXES}
    found = [f"missing: {name}" for name in sorted(expected - package)]
    found += [f"not in the repository: {name}" for name in sorted(package - expected)]
    return found + [f"missing: {n}" for n in LICENCES if not any(name.endswith(f"/licenses/{n}") for name in held)]


def differences(ours: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    """Compare the files of two wheels, byte for byte.

    Args:
        ours: Of the wheel built from the repository.
        theirs: Of the one built from the sdist.

    Returns:
        What differs, one line each.
    """
    found = [f"in one of the two wheels only: {name}" for name in sorted(ours.keys() ^ theirs.keys())]
    changed = [name for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    return found + [f"the wheel from the sdist has other content: {name}" for name in changed]


def import_doors() -> int:
    """Import every sub-package; return how many there are."""
    doors = [name.removesuffix("/__init__.py").replace("/", ".") for name in expected_files() if "__init__" in name]
    return len([importlib.import_module(name) for name in doors])


def main() -> None:
    """Print what is wrong, and exit with 1 if anything is."""
    if len(sys.argv) == 1:
        found = problems({str(file) for file in files("promptgraft") or []})
        done = f"{import_doors()} sub-packages can be imported"
    else:
        ours, theirs = (contents(Path(wheel)) for wheel in sys.argv[1:])
        found = problems(set(ours)) + differences(ours, theirs)
        done = f"{len(ours)} files, the same from the sdist"
    print("\n".join(found) or done)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
