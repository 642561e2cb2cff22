HEAD

def landscape(values: Values, arrays: Arrays) -> Section | None:
    """The energy over the plane; only for two-dimensional data."""
    x, y, energy = (arrays.get(f"landscape/{name}") for name in ("x", "y", "energy"))
    points, vectors = arrays.get("field/points"), arrays.get("field/vectors")
    plane = in_plane(arrays.get("samples")) or in_plane(arrays.get("data")) or energy is not None
    if not plane:
        return None
    section = Section("landscape", "The landscape")
    if x is None or y is None or energy is None:
        section.blocks.append(Text("No landscape was stored in this run.", absent=True))
        x = y = energy = None
    pictures = []
    if energy is not None and x is not None and y is not None:
        section.lead = "The energy over the plane. Data live in the lowlands (dark); everything else is uphill (pale)."
        tail = "Heights are above the lowest point; above 15, or above 95 % of the map, the colour no longer changes."
        for name, colour in (("data", "#ffffff"), ("samples", "#f2893f")):
            dots = arrays.get(name)
            if dots is None or not in_plane(dots):
                section.blocks.append(Text(f"No {name} were stored to set into the landscape.", absent=True))
                continue
            figure = draw.landscape(x, y, energy, dots[:1200], colour)
            pictures.append(Picture(
                draw.svg(figure, f"Contour map of the energy with {len(dots[:1200])} points ({name})"),
                f"Energy and {name}", f"The {name} as dots: they should fill the dark valleys and leave none empty. {tail}",
            ))  # fmt: skip
    if points is not None and vectors is not None and len(points) == len(vectors) > 0:
        figure = draw.field(points, vectors, x, y, energy)
        pictures.append(Picture(
            draw.svg(figure, f"Vector field of minus the gradient of the energy at {len(points)} points"), "Downhill: −∇E",
            "Arrows point the way a chain is pushed; stronger colour means a stronger push. They should lead to the data.",
        ))  # fmt: skip
    else:
        section.blocks.append(Text("No vector field was stored in this run.", absent=True))
    if pictures:
        section.blocks.insert(0, Panels(pictures))
    return section
