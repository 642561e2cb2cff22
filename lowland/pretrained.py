"""Trained runs that come with lowland, with all that sampling and scoring need."""

from pathlib import Path


def pretrained_folder() -> Path:
    """Return the folder of the trained runs that come with lowland: inside the wheel, or beside the
    package in a checkout.
    """
    inside = Path(__file__).parent / "weights"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "weights"


def list_pretrained() -> list[str]:
    """List the names of the trained runs that come with lowland: `lowland sample NAME`,
    `lowland.load(NAME)`.
    """
    return sorted(path.parent.name for path in pretrained_folder().glob("*/recipe.json"))
