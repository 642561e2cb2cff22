"""The trained runs that come with lowland: run directories inside the wheel, with what sampling and
scoring need.
"""

from pathlib import Path


def shipped_folder() -> Path:
    """Return the folder of the trained runs that come with lowland: inside the wheel, or beside the
    package in a checkout.
    """
    inside = Path(__file__).parent / "weights"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "weights"


def shipped() -> list[str]:
    """List the names of the trained runs that come with lowland: `lowland sample NAME`,
    `lowland.load(NAME)`.
    """
    return sorted(path.parent.name for path in shipped_folder().glob("*/recipe.json"))
