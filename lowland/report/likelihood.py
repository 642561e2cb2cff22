"""The likelihood and its certificate: log Z along the path in both directions, and what the gap
says.
"""

import numpy as np
from matplotlib.figure import Figure

from lowland.report import figures as draw
from lowland.report.blocks import (
    Card,
    Panels,
    Picture,
    Section,
    Table,
    Text,
    Values,
    count,
    estimate,
    number,
    part,
    show,
)
from lowland.report.pictures import Array, Arrays


def likelihood(values: Values, arrays: Arrays) -> Section | None:
    """The section; None for a run whose likelihood was not measured."""
    if not values:
        return None
    section = Section("likelihood", "The likelihood and its certificate")
    log_z, test = part(values, "log_z"), part(values, "test")
    verdict = str(log_z.get("verdict") or "not certified: nothing is known of log Z")
    section.lead = (
        f"Test log-likelihood {estimate(test)} nats per example ({test.get('data')}), "
        f"{count(test.get('count'))} examples. {_bracket(log_z, test)}"
    )
    tone = "" if log_z.get("certified") else "The likelihood is "
    section.blocks.append(
        Text(f"{tone}{verdict[0].upper() + verdict[1:] if not tone else verdict}.")
    )
    betas, forward, reverse = (arrays.get(name) for name in ("betas", "forward", "reverse"))
    if (
        betas is not None
        and forward is not None
        and reverse is not None
        and len(betas) == len(forward) == len(reverse) > 1
    ):
        section.blocks.append(
            Panels([*_pictures(betas, forward, reverse), _directions(log_z)], "wide")
        )
    section.blocks += [Text(str(note)) for note in values.get("notes") or []]
    return section


def card(values: Values) -> list[Card]:
    """The headline figure: the test log-likelihood, and whether it is certified."""
    test, log_z = part(values, "test"), part(values, "log_z")
    if number(test.get("value")) is None:
        return []
    ends = f"{show(test.get('lower'), 5)} to {show(test.get('upper'), 5)}"
    sure = bool(log_z.get("certified"))
    made = Card.of(
        "Log-likelihood",
        estimate(test, unit="nats"),
        f"{'' if sure else 'not certified; '}{ends} by log Z",
    )
    return [Card(made.label, made.value, made.note, "good" if sure else "bad", made.error)]


def _bracket(log_z: Values, test: Values) -> str:
    if log_z.get("method") == "enumeration":
        return f"log Z = {show(log_z.get('value'), 7)} is exact: {log_z.get('details')}."
    return (
        f"log Z lies between {show(log_z.get('lower'), 6)} and {show(log_z.get('upper'), 6)}, so "
        f"the mean over these examples lies between {show(test.get('lower'), 5)} and "
        f"{show(test.get('upper'), 5)}. One run went from {log_z.get('base')} to the energy, one "
        f"back from {log_z.get('draws')}; {count(log_z.get('rungs'))} rungs, by "
        f"{log_z.get('sampler')}."
    )


def _pictures(betas: Array, forward: Array, reverse: Array) -> list[Picture]:
    keys = (("from the base", "data"), ("back from the energy", "model"))
    whole = (
        "Both runs begin where log Z is known, at 0. A run that lost its way ends elsewhere than "
        "the other."
    )
    apart = (
        "The same curves, less their mean. The forward run lags below and the reverse run above; "
        "where they part is where the path is hard, and how far they end apart is the gap of the "
        "certificate."
    )
    return [
        Picture(draw.svg(course(betas, forward, reverse), "log Z against inverse temperature, both directions"),
                "log Z against inverse temperature", whole, keys=keys),
        Picture(draw.svg(gap(betas, forward, reverse), "Both directions less their mean, against inverse temperature"),
                "How far the directions are apart", apart, keys=keys),
    ]  # fmt: skip


def course(betas: Array, forward: Array, reverse: Array) -> Figure:
    """log Z against β, both directions: arrays (K + 1,)."""
    figure, axes = draw.blank()
    axes.plot(betas, forward, color=draw.COLOURS["data"], linewidth=2.6, alpha=0.75)
    axes.plot(betas, reverse, color=draw.COLOURS["model"], linewidth=1.4, dashes=(4, 2))
    draw.label(axes, "inverse temperature β", "log Z")
    return figure


def gap(betas: Array, forward: Array, reverse: Array) -> Figure:
    """Both directions less their mean, against β."""
    figure, axes = draw.blank()
    middle = (forward + reverse) / 2
    axes.axhline(0, color=draw.COLOURS["ink"], linewidth=0.8)
    axes.plot(betas, forward - middle, color=draw.COLOURS["data"], linewidth=1.8)
    axes.plot(betas, reverse - middle, color=draw.COLOURS["model"], linewidth=1.8)
    reach = max(float(np.nanmax(np.abs(reverse - middle))), 1e-6) * 1.15
    axes.set_ylim(-reach, reach)
    draw.label(axes, "inverse temperature β", "nats")
    return figure


def _directions(log_z: Values) -> Table:
    rows = []
    for name, words in (("forward", "from the base"), ("reverse", "back from the energy")):
        run = part(log_z, name)
        ess = f"{count(run.get('ess'))} of {count(log_z.get('chains'))}"
        rows.append((words, estimate(run), ess, show(run.get("acceptance"), 3)))
    caption = (
        "A log mean weight is an estimate of log Z that errs low in the one direction and high in "
        "the other. The certificate reaches from the low end of the first to the high end of the "
        "second; it is believed if they agree, weights are worth enough chains, and the reverse "
        "run began at draws of the energy."
    )
    return Table(
        "Both directions", ("run", "log Z", "weights worth", "acceptance"), rows, caption=caption
    )
