"""The section about the energy over the plane, for two-dimensional data: contours with data and
samples, and the field −∇E.
"""

from lowland.report import planar
from lowland.report.blocks import Panels, Picture, Section
from lowland.report.figures import plot
from lowland.report.pictures import Arrays, is_planar

DOT_COLORS = {"data": "#ffffff", "samples": "#f2893f"}  # that stand out on the dark lowlands


def landscape_section(arrays: Arrays) -> Section | None:
    """Return maps of the energy; None unless the data are points in the plane."""
    x, y, energy = (arrays.get(f"landscape/{name}") for name in ("x", "y", "energy"))
    if (
        energy is None
        and not is_planar(arrays.get("samples"))
        and not is_planar(arrays.get("data"))
    ):
        return None
    section = Section("landscape", "The landscape")
    pictures: list[Picture] = []
    if x is None or y is None or energy is None or energy.shape != (len(y), len(x)):
        section.add_absent("No landscape was stored in this run.")
        x = y = energy = None
    else:
        section.lead = (
            "Data live in the lowlands (dark), everything else is uphill (pale). Colours give the "
            "energy above its lowest point; in the highest 5 % of the map, and above 15, they do "
            "not change."
        )
        for name, color in DOT_COLORS.items():
            dots = arrays.get(name)
            if not is_planar(dots):
                section.add_absent(f"No {name} were stored to set into the landscape.")
                continue
            dots = dots[:1200]
            figure = planar.draw_landscape(x, y, energy, dots, color)
            alt = f"Contour map of the energy with {len(dots)} points ({name})"
            caption = f"The {name} as dots: they should fill the dark valleys and leave none empty."
            pictures.append(plot(figure, alt, f"Energy and {name}", caption))
    points, vectors = arrays.get("field/points"), arrays.get("field/vectors")
    if is_planar(points) and is_planar(vectors) and len(points) == len(vectors):
        figure = planar.draw_field(points, vectors, x, y, energy)
        alt = f"Vector field of minus the gradient of the energy at {len(points)} points"
        caption = (
            "Arrows point the way a chain is pushed; stronger colour is a stronger push. They "
            "should lead to the data."
        )
        pictures.append(plot(figure, alt, "Downhill: −∇E", caption))
    else:
        section.add_absent("No vector field was stored in this run.")
    section.blocks.insert(0, Panels(pictures))
    return section
