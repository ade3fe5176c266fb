"""Where the repository, its data and its models are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "studies"
MODELS = STUDIES / "models"
