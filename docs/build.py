"""Run the pages of docs/: every block of Python in order, its output into the block of text below.

python docs/build.py [PAGE ...]            run pages that print something, and rewrite them
python docs/build.py --check [PAGE ...]    run them and fail where one says something else

Numbers may differ by 5 % or 0.15. CPUs add in different orders; after a training or a long chain
the
later digits of a number are luck, and pages print none of those that matter less than this.
"""

import argparse
import contextlib
import difflib
import io
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<said>.*?)```\n)?", re.S)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def pages() -> list[Path]:
    """Pages with output to keep true."""
    return [
        path
        for path in sorted(HERE.glob("*.md"))
        if any(m["said"] is not None for m in BLOCK.finditer(path.read_text("utf-8")))
    ]


def run(page: Path) -> str:
    """The page as it reads after all its blocks have run, one after another, in the folder of the
    pages.
    """
    scope: dict[str, object] = {"__name__": page.stem}

    def block(found: re.Match[str]) -> str:
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            exec(compile(found["code"], str(page), "exec"), scope)  # our own pages
        text = (
            found[0]
            if found["said"] is None
            else f"```python\n{found['code']}```\n\n```text\n{heard.getvalue()}```\n"
        )
        if heard.getvalue() and found["said"] is None:
            raise SystemExit(f"{page} prints without a block of text after it; add one")
        return text

    with contextlib.chdir(HERE):
        return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def agree(a: str, b: str, tolerance: float = 0.05) -> bool:
    """The same words, and numbers that differ by so little of their size, or by 0.15."""
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (a, b)]
    words = [NUMBER.sub("#", text).split() for text in (a, b)]
    close = len(numbers[0]) == len(numbers[1]) and all(
        abs(x - y) <= max(tolerance * abs(y), 0.15) for x, y in zip(*numbers, strict=True)
    )
    return words[0] == words[1] and close


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="pages, without .md (all)")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "agg")
    wrong = []
    for page in pages():
        if given.names and page.stem not in given.names:
            continue
        new, old = run(page), page.read_text()
        if not given.check:
            page.write_text(new)
        elif not agree(new, old):
            wrong.append(page.name)
            sys.stderr.writelines(
                difflib.unified_diff(*(s.splitlines(True) for s in (old, new)), n=0)
            )
    if wrong:
        sys.exit(
            f"{', '.join(wrong)}: the code says something else now; run python docs/build.py and "
            "read what changed"
        )


if __name__ == "__main__":
    main()
