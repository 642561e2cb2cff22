"""The energy over the plane, for two-dimensional data: contours with data and samples, and the
field −∇E.
"""

from lowland.report import figures as draw
from lowland.report.blocks import Panels, Picture, Section, Text
from lowland.report.pictures import Array, Arrays, in_plane

DATA, SAMPLES = (
    "#ffffff",
    "#f2893f",
)  # dots that stand out on the dark lowlands, on a light page and on a dark one
HEIGHTS = (
    "Colours give the energy above its lowest point; in the highest 5 % of the map, and above 15, "
    "they do not change."
)


def landscape(arrays: Arrays) -> Section | None:
    """Maps of the energy; None unless the data are points in the plane."""
    x, y, energy = (arrays.get(f"landscape/{name}") for name in ("x", "y", "energy"))
    if energy is None and not in_plane(arrays.get("samples")) and not in_plane(arrays.get("data")):
        return None
    section = Section("landscape", "The landscape")
    pictures: list[Picture] = []
    if x is None or y is None or energy is None or energy.shape != (len(y), len(x)):
        section.blocks.append(Text("No landscape was stored in this run.", absent=True))
        x = y = energy = None
    else:
        section.lead = (
            f"Data live in the lowlands (dark), everything else is uphill (pale). {HEIGHTS}"
        )
        for name, colour in (("data", DATA), ("samples", SAMPLES)):
            dots = arrays.get(name)
            if in_plane(dots):
                pictures.append(_map(name, colour, x, y, energy, dots[:1200]))
            else:
                section.blocks.append(
                    Text(f"No {name} were stored to set into the landscape.", absent=True)
                )
    points, vectors = arrays.get("field/points"), arrays.get("field/vectors")
    if in_plane(points) and in_plane(vectors) and len(points) == len(vectors):
        figure = draw.field(points, vectors, x, y, energy)
        alt = f"Vector field of minus the gradient of the energy at {len(points)} points"
        caption = (
            "Arrows point the way a chain is pushed; stronger colour is a stronger push. They "
            "should lead to the data."
        )
        pictures.append(Picture(draw.svg(figure, alt), "Downhill: −∇E", caption))
    else:
        section.blocks.append(Text("No vector field was stored in this run.", absent=True))
    section.blocks.insert(0, Panels(pictures))
    return section


def _map(name: str, colour: str, x: Array, y: Array, energy: Array, dots: Array) -> Picture:
    figure = draw.landscape(x, y, energy, dots, colour)
    caption = f"The {name} as dots: they should fill the dark valleys and leave none empty."
    return Picture(
        draw.svg(figure, f"Contour map of the energy with {len(dots)} points ({name})"),
        f"Energy and {name}",
        caption,
    )
