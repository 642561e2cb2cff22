"""A run as one page: `write_report(RUN)` reads the run directory and writes RUN/report.html.

The page is a single file. It opens from a disk, loads nothing from a network and needs no live
object: what is not in the run directory is not in the report, and a part that is missing is named
as missing.

    page                                    the run directory -> one HTML file, by template.html
    training · samples · chains · boltzmann · landscape · detection · likelihood · restoration
                                            its sections
    figures · planar · curves · pictures    arrays -> plots, maps, logged curves, tiled images
    blocks · text                           the pieces of a page, and numbers in words
"""

from lowland.report.page import write_report

__all__ = ["write_report"]
