"""The section about the likelihood and its certificate: log Z along the path in both directions,
and the gap between them.
"""

import numpy as np
from matplotlib.figure import Figure

from lowland.report import text
from lowland.report.blocks import Card, Picture, Section, Table, Values, get_part
from lowland.report.figures import COLORS, label, new_figure, plot
from lowland.report.pictures import Array, Arrays

BETA = "inverse temperature β"


def likelihood_section(values: Values, arrays: Arrays) -> Section | None:
    """Return the section; None for a run whose likelihood was not measured."""
    if not values:
        return None
    section = Section("likelihood", "The likelihood and its certificate")
    log_z, test = get_part(values, "log_z"), get_part(values, "test")
    section.lead = (
        f"Test log-likelihood {text.estimate(test)} nats per example ({test.get('data')}), "
        f"{text.count(test.get('count'))} examples. {_describe_bracket(log_z, test)}"
    )
    verdict = str(log_z.get("verdict") or "not certified: nothing is known of log Z")
    if log_z.get("certified"):
        section.add_text(f"{verdict[0].upper()}{verdict[1:]}.")
    else:
        section.add_text(f"The likelihood is {verdict}.")
    paths = [arrays[name] for name in ("betas", "forward", "reverse") if name in arrays]
    if len(paths) == 3 and len(paths[0]) == len(paths[1]) == len(paths[2]) > 1:
        section.add_panels([*_pictures(*paths), _direction_table(log_z)], "wide")
    for note in values.get("notes") or []:
        section.add_text(str(note))
    return section


def likelihood_card(values: Values) -> list[Card]:
    """Return the headline figure: the test log-likelihood, certified or not."""
    test, log_z = get_part(values, "test"), get_part(values, "log_z")
    if text.parse_number(test.get("value")) is None:
        return []
    sure = bool(log_z.get("certified"))
    note = f"{text.show(test.get('lower'), 5)} to {text.show(test.get('upper'), 5)} by log Z"
    if not sure:
        note = f"not certified; {note}"
    value = text.estimate(test, unit="nats")
    return [Card.of("Log-likelihood", value, note, "good" if sure else "bad")]


def _describe_bracket(log_z: Values, test: Values) -> str:
    if log_z.get("method") == "enumeration":
        return f"log Z = {text.show(log_z.get('value'), 7)} is exact: {log_z.get('details')}."
    return (
        f"log Z lies between {text.show(log_z.get('lower'), 6)} and "
        f"{text.show(log_z.get('upper'), 6)}, so the mean over these examples lies between "
        f"{text.show(test.get('lower'), 5)} and {text.show(test.get('upper'), 5)}. One run went "
        f"from {log_z.get('base')} to the energy, one back from {log_z.get('draws')}; "
        f"{text.count(log_z.get('num_temperatures'))} temperatures, by {log_z.get('sampler')}."
    )


def _pictures(betas: Array, forward: Array, reverse: Array) -> list[Picture]:
    keys = (("from the base", "data"), ("back from the energy", "model"))
    path = plot(
        draw_path(betas, forward, reverse),
        "log Z against inverse temperature, both directions",
        "log Z against inverse temperature",
        "Both runs begin where log Z is known, at 0. A run that lost its way ends elsewhere than "
        "the other.",
        keys=keys,
    )
    gap = plot(
        draw_gap(betas, forward, reverse),
        "Both directions less their mean, against inverse temperature",
        "How far the directions are apart",
        "The same curves, less their mean. The forward run lags below and the reverse run above; "
        "where they part is where the path is hard, and how far they end apart is the gap of the "
        "certificate.",
        keys=keys,
    )
    return [path, gap]


def draw_path(betas: Array, forward: Array, reverse: Array) -> Figure:
    """Draw log Z against β, both directions: arrays (K + 1,)."""
    figure, axes = new_figure()
    axes.plot(betas, forward, color=COLORS["data"], linewidth=2.6, alpha=0.75)
    axes.plot(betas, reverse, color=COLORS["model"], linewidth=1.4, dashes=(4, 2))
    label(axes, BETA, "log Z")
    return figure


def draw_gap(betas: Array, forward: Array, reverse: Array) -> Figure:
    """Draw both directions less their mean, against β: arrays (K + 1,)."""
    figure, axes = new_figure()
    middle = (forward + reverse) / 2
    axes.axhline(0, color=COLORS["ink"], linewidth=0.8)
    axes.plot(betas, forward - middle, color=COLORS["data"], linewidth=1.8)
    axes.plot(betas, reverse - middle, color=COLORS["model"], linewidth=1.8)
    reach = max(float(np.nanmax(np.abs(reverse - middle))), 1e-6) * 1.15
    axes.set_ylim(-reach, reach)
    label(axes, BETA, "nats")
    return figure


def _direction_table(log_z: Values) -> Table:
    rows = []
    for name, words in (("forward", "from the base"), ("reverse", "back from the energy")):
        run = get_part(log_z, name)
        ess = f"{text.count(run.get('ess'))} of {text.count(log_z.get('chains'))}"
        rows.append((words, text.estimate(run), ess, text.show(run.get("acceptance"), 3)))
    caption = (
        "A log mean weight is an estimate of log Z that errs low in the one direction and high in "
        "the other. The certificate reaches from the low end of the first to the high end of the "
        "second; it is believed if they agree, weights are worth enough chains, and the reverse "
        "run began at draws of the energy."
    )
    head = ("run", "log Z", "weights worth", "acceptance")
    return Table("Both directions", head, rows, caption=caption)
