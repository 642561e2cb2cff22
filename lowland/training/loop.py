"""The training loop: update, log, diagnose, checkpoint; when health says so, roll back, cure and go
on.
"""

import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from tqdm.auto import tqdm

from lowland.data import Dataset
from lowland.energy import Energy
from lowland.run import Run
from lowland.run.thinning import thin_checkpoints
from lowland.training.beginning import prepare, remove_refused
from lowland.training.callbacks import Callback, Callbacks
from lowland.training.distributed import team
from lowland.training.findings import Finding, Limits, worst
from lowland.training.health import diagnose
from lowland.training.identity import check_recipe, describe_trained, record_data
from lowland.training.kept_data import keep_examples
from lowland.training.memory import peak_mb
from lowland.training.preflight import ProbeReport
from lowland.training.recipes import load_recipe_data
from lowland.training.restoring import restore
from lowland.training.scales import describe_scales
from lowland.training.selection import Selection, held_gap
from lowland.training.session import Session
from lowland.training.settings import Plain, Row
from lowland.training.sizes import check_sizes
from lowland.training.tensorboard import Board
from lowland.training.threads import cpu_threads

# findings that the scales of the data can explain
OF_SCALE = ("diverging", "refused proposals", "wide gap", "discriminator won", "frozen chains")
ProgressBar: TypeAlias = "tqdm[Any]"


class TrainingStoppedError(RuntimeError):
    """Health stopped the run. The last good checkpoint stands; the message says what was seen,
    tried and what to do.
    """


def train_run(
    recipe: Plain,
    run: Run | str | Path,
    *,
    data: Dataset | None = None,
    energy: Energy | None = None,
    progress: bool = True,
    allow_changes: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Energy:
    """Train plain values of a recipe at one size of data; see `train_recipe`.

    callbacks: functions of an `Event`, see `training.callbacks`.
    """
    data = None if data is None else data.cpu()
    recipe = describe_trained(recipe, data, energy)
    with team() as members:
        data = data or members.main_first(lambda: load_recipe_data(recipe))
        if energy is None:
            check_sizes(recipe, data)
        session = Session(recipe, data, energy, members)
        with cpu_threads(session.settings.threads), ExitStack() as stack:
            report = prepare(session, run)
            members.on_main(lambda: stack.enter_context(remove_refused(run)))
            opened = members.on_main(lambda: _enter(stack, run, session, allow_changes))
            shown = progress and members.is_main
            _train(session, members.main_proxy(opened), shown, report, callbacks)
    return session.ema.module


def _enter(stack: ExitStack, run: Run | str | Path, session: Session, allow_changes: bool) -> Run:
    """Make or open a run, lock it, and make sure that it is the run of this recipe and data."""
    opened = run if isinstance(run, Run) else Run(run)
    if not (opened.path / "recipe.json").exists():
        stack.enter_context(opened.lock(make=True))
        Run.create(opened.path, session.recipe)
    else:
        opened = Run.open(opened.path)
        stack.enter_context(opened.lock())
    check_recipe(opened, session.recipe, allow_changes=allow_changes)
    record_data(opened, session.data, allow_changes=allow_changes)
    keep_examples(opened, session.recipe, session.data)
    return opened


def _train(
    session: Session,
    run: Run,
    progress: bool,
    report: ProbeReport | None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Begin or go on, and update until all steps are done, nothing better was found for long
    enough, or a callback asks to stop.
    """
    run.check_versions()
    rows = _begin(session, run, progress, report)
    spent = [
        row["seconds"]
        for row in run.rows("time.jsonl")
        if row["step"] == session.step and isinstance(row.get("seconds"), float)
    ]
    writes = session.settings.tensorboard and session.team.is_main
    board = Board(run.path / "tensorboard" if writes else None)
    already = spent[-1] if spent else 0.0
    began = {"step": session.step, "event": "precision", "seconds": already}
    run.log(began | session.precision.to_dict(), "time.jsonl")
    loop = Loop(session, run, rows, board, time.monotonic() - already, callbacks)
    with _progress_bar(session.settings.steps, session.step, progress) as bar, board:
        while session.step < session.settings.steps and not loop.ended:
            before = session.step
            loop.update(bar)
            bar.update(session.step - before)
    loop.finish()


def _progress_bar(total: int, done: int, shown: bool) -> ProgressBar:
    interval = 0.2 if sys.stderr.isatty() else 20.0  # a log file wants a line now and then
    return tqdm(
        total=total,
        initial=done,
        unit="step",
        disable=not shown,
        mininterval=interval,
        maxinterval=2 * interval,
    )


def _begin(session: Session, run: Run, progress: bool, report: ProbeReport | None) -> list[Row]:
    """Restore the newest checkpoint, or log what the probe found and write the first one; return
    the log rows that lead up to it.
    """
    if run.steps():
        checkpoint = run.load_checkpoint(full=True)
        restore(session, checkpoint)
        run.keep_checkpoints({step for step in run.steps() if step <= session.step})
        run.keep_checkpoints(choose_checkpoints(session, run.steps()))
        run.cut_log(checkpoint.state["log_size"])
    else:
        run.cut_log(0)
        scales = describe_scales(session.data)
        if scales and session.team.is_main:
            warnings.warn(scales, UserWarning, stacklevel=2)
        if report is not None:
            told = [*report.sentences, *filter(None, [scales])]
            run.log({"step": 0, "event": "preflight", **report.plain(), "sentences": told})
            if progress:
                for sentence in report.sentences:
                    tqdm.write(f"preflight: {sentence}", file=sys.stderr)
        run.save_checkpoint(session.checkpoint(run.log_size()))
    return lineage(run.rows())


def choose_checkpoints(session: Session, present: list[int]) -> set[int]:
    """Choose the checkpoints to keep: the newest ones, the best, and for when these are not far
    enough back the start and one a quarter to half of the way.
    """
    every = session.settings.checkpoint_every
    power = 1 << max(session.step // every, 1).bit_length() - 1
    kept = {*present[-session.settings.keep_checkpoints :], 0, every * power, every * power // 2}
    if session.best:
        kept.add(int(session.best["step"]))
    return kept


def lineage(rows: list[Row]) -> list[Row]:
    """Return the rows that lead to the present state: no events, nothing that was rolled back;
    those before a cure marked stale.
    """
    kept: list[Row] = []
    for row in rows:
        if row.get("event") == "rollback":
            kept = _mark_stale(kept, row["to"])
        elif "event" not in row:
            kept.append(row)
    return kept


def _mark_stale(rows: list[Row], step: int) -> list[Row]:
    """Return the rows up to a step, marked as logged before a cure."""
    return [{**row, "stale": True} for row in rows if row["step"] <= step]


class Loop:
    """State of one training loop: session, run, log rows that lead up to the present state,
    checkpoint selection, moment of the first update.
    """

    def __init__(
        self,
        session: Session,
        run: Run,
        rows: list[Row],
        board: Board,
        started: float,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.session, self.run, self.rows, self.board = session, run, rows, board
        self.selection, self.started = Selection.of(session), started
        self.scales = describe_scales(session.data)
        self.callbacks = Callbacks(callbacks, session, run)

    @property
    def ended(self) -> bool:
        """Tell whether nothing better was found for as long as patience lasts, or a callback asked
        to stop.
        """
        patience = self.session.settings.patience
        out_of_patience = bool(patience) and self.session.best.get("waited", 0) >= patience
        return out_of_patience or self.callbacks.stopped

    def update(self, bar: ProgressBar) -> None:
        """Make one update; and where it is time, a row in the log, a diagnosis, a checkpoint."""
        session, settings = self.session, self.session.settings
        session.advance()
        self.callbacks.call("update")
        if session.step % settings.log_every and session.step < settings.steps:
            return
        saving = session.step % settings.checkpoint_every == 0 or session.step == settings.steps
        row = session.row()
        if saving:
            row |= held_gap(session)
        row, findings = session.team.broadcast((row, self._diagnose(row)))
        session.health = row["health"] = worst(findings)
        intervening = session.health == "bad" and settings.on_failure in ("roll-back", "stop")
        if saving and not intervening and self.selection is not None:
            row |= self.selection.judge(session)
            row, session.best = session.team.broadcast((row, session.best))
        self._log(row, findings)
        self._tell(row, findings)
        gap = f"gap {row['gap']:+.3g}, " if "gap" in row else f"loss {row['loss']:.4g}, "
        bar.set_postfix_str(f"{gap}health {row['health']}", refresh=False)
        if intervening:
            self._intervene(findings)
        elif saving:
            self._save()

    def _diagnose(self, row: Row) -> list[Finding]:
        """Return what is wrong; where the data have odd scales, that is the first remedy."""
        found = diagnose([*self.rows, row])
        if not self.scales:
            return found
        return [
            f._replace(remedy=f"{self.scales} Otherwise: {f.remedy}") if f.name in OF_SCALE else f
            for f in found
        ]

    def _save(self) -> None:
        session, run = self.session, self.run
        run.save_checkpoint(session.checkpoint(run.log_size()))
        run.keep_checkpoints(choose_checkpoints(session, run.steps()))
        self.callbacks.call("checkpoint")

    def _tell(self, row: Row, findings: list[Finding]) -> None:
        """Call the callbacks about a row that was logged, and about what was found in it."""
        self.callbacks.row, self.callbacks.findings = row, tuple(findings)
        if findings:
            self.callbacks.call("verdict")
        self.callbacks.call("log")

    def finish(self) -> None:
        """Take the weights of the best checkpoint, if one was chosen; thin the older ones, from
        which nothing will be trained. A run that a callback stopped is saved first.
        """
        session, run = self.session, self.run
        if self.callbacks.stopped and run.steps()[-1] != session.step:
            self._save()
        newest = set(run.steps()[-session.settings.keep_checkpoints :])
        session.team.on_main(lambda: thin_checkpoints(Run(run.path), newest))
        if session.best:
            best = run.load_checkpoint(int(session.best["step"]))
            session.ema.module.load_state_dict(best.tensors["ema"])

    def _log(self, row: Row, findings: list[Finding]) -> None:
        """Write the row, and an event for every finding that is new or has changed its level."""
        known = {(f.name, f.level) for f in diagnose(self.rows)}
        self.rows.append(row)
        self.run.log(row)
        spent = {
            "seconds": round(time.monotonic() - self.started, 3),
            "peak_mb": round(peak_mb(self.session.device), 1),
            "device": str(self.session.device),
        }
        self.run.log({"step": row["step"], **spent}, "time.jsonl")
        self.board.write(row)
        for finding in findings:
            if (finding.name, finding.level) in known:
                continue
            self.run.log({"step": row["step"], "event": "verdict", **finding._asdict()})
            if self.session.settings.on_failure != "continue":
                self._say(
                    f"step {row['step']}: {finding.level}: {finding.name}: {finding.sentence} "
                    f"{finding.remedy}"
                )

    def _say(self, words: str) -> None:
        if self.session.team.is_main:
            tqdm.write(words, file=sys.stderr)

    def _intervene(self, findings: list[Finding]) -> None:
        """Roll back, the further the sooner trouble came again, and cure what was found; or
        stop.
        """
        session, run = self.session, self.run
        cause = next(f for f in findings if f.level == "bad")
        step, tried = session.step, session.rollbacks
        factors = session.rate_factor, session.step_factor
        if session.settings.on_failure == "stop" or tried >= session.settings.max_rollbacks:
            self._stop(cause)
        recent = self._count_recent_troubles(step)
        # those in bad health are not among them
        saved = [at for at in run.steps() if run.is_full(at)]
        halfway = max((at for at in saved if at <= saved[-1] / 2), default=saved[0])
        checkpoint = run.load_checkpoint((saved[-1], halfway, saved[0])[min(recent, 2)])
        restore(session, checkpoint)
        session.rollbacks = tried + 1
        did = self._cure(cause.cure, factors, 0.25 if recent else 0.5)
        run.keep_checkpoints({kept for kept in run.steps() if kept <= checkpoint.step})
        event = {"step": step, "event": "rollback", "to": checkpoint.step, "did": did}
        run.log({**event, **cause._asdict()})
        self.rows[:] = _mark_stale(self.rows, checkpoint.step)
        self._say(
            f"step {step}: {cause.name}: {cause.sentence} Rolled back to step {checkpoint.step}, "
            f"{did}."
        )

    def _stop(self, cause: Finding) -> None:
        """Log the end and raise TrainingStoppedError."""
        step, run = self.session.step, self.run
        run.log({"step": step, "event": "stop", **cause._asdict()})
        cures = [row["did"] for row in run.rows() if row.get("event") == "rollback"]
        history = f" after {len(cures)} rollbacks ({'; '.join(cures)})" if cures else ""
        raise TrainingStoppedError(
            f"training stopped at step {step}{history}: {cause.name}: {cause.sentence} "
            f"{cause.remedy} The newest checkpoint is step {run.steps()[-1]} in {run.path}."
        )

    def _count_recent_troubles(self, step: int) -> int:
        """Count the troubles that came shortly before this one: the second goes back half of the
        way, the third to the start.
        """
        settings = self.session.settings
        near = max(4 * settings.checkpoint_every, 2 * Limits().window * settings.log_every)
        troubles = [row["step"] for row in self.run.rows() if row.get("event") == "rollback"]
        count = 0
        for earlier in reversed(troubles):
            if abs(step - earlier) > near:
                break
            count, step = count + 1, earlier
        return count

    def _cure(self, cure: str, factors: tuple[float, float], shorter: float) -> str:
        """Lower the rate from what it was when trouble came, and shorten the step or begin chains
        anew; return a description of that.
        """
        session = self.session
        session.rate_factor = factors[0]
        session.lower_rate(0.5)
        did = [f"learning rate × {session.rate_factor:g}"]
        session.shorten_step(factors[1] / session.step_factor)
        if cure == "step" and session.shorten_step(shorter):
            did.append(f"sampler step × {session.step_factor:g}")
        if cure == "chains" and (count := session.reinit_chains(0.5)):
            did.append(f"{count} chains begun anew")
        return ", ".join(did)
