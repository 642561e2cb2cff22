"""Names that are safe as folders on every system."""

from lowland.config.strictness import show

MAX_CHARACTERS = 80
MAX_BYTES = 200  # a folder's name holds 255, and a number may follow
FORBIDDEN = set('/\\:*?"<>|')
RESERVED = {"con", "prn", "aux", "nul"} | {f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10)}


def check_name(name: str) -> str:
    """Return the name of a recipe, which names the folder of its run.

    Raises ValueError for names that are paths, that a shell or another system would read as
    something else, or that hold characters that cannot be printed.

    >>> check_name("moons-2")
    'moons-2'
    """
    safe = name.isprintable() and not FORBIDDEN & set(name)
    usual = name[:1] not in ("-", ".", " ", "~", "") and name[-1:] not in (".", " ")
    short = len(name) <= MAX_CHARACTERS and len(name.encode("utf-8", "replace")) <= MAX_BYTES
    if safe and usual and short and name.partition(".")[0].strip().lower() not in RESERVED:
        return name
    raise ValueError(
        f"name is {show(name)}; it names a folder below runs/, and may have {MAX_CHARACTERS} "
        "letters, digits and - _ . but no path, no control character and none of the names that "
        "systems keep for themselves; choose another, and give the place of a run with --run"
    )
