"""A run as one page: `write_report(RUN)` reads the run directory and writes RUN/report.html.

The page is a single file. It opens from a disk, loads nothing from a network and needs no live object: what is not in the
run directory is not in the report, and a part that is missing is named as missing.

    figures   arrays -> matplotlib figures and pictures; curves: the same for what is logged over time
    blocks    what a page is made of (pictures, tables, strips) and how numbers are written
    sections  what was evaluated, as blocks
    page      the run directory -> one HTML file
"""

from lowland.report.page import write_report

__all__ = ["write_report"]
