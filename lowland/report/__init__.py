"""A run as one page: `write_report(RUN)` reads the run directory and writes RUN/report.html.

The page is a single file. It opens from a disk, loads nothing from a network and needs no live
object: what is not in the run directory is not in the report, and a part that is missing is named
as missing.

    page                                             the run directory -> one HTML file, by
                                                     template.html
    training · samples · detection · restoration · landscape     its sections
    figures · curves · pictures                      arrays -> plots, logged curves, tiled images
    blocks                                           what a page is made of, and how numbers are
                                                     written
"""

from lowland.report.page import write_report

__all__ = ["write_report"]
