"""The training loop: update, log, diagnose, checkpoint; when health says so, roll back, cure and go
on.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from lowland.data import Dataset, load_data
from lowland.energy import Energy
from lowland.run import Run
from lowland.training.distributed import team
from lowland.training.health import Finding, Limits, diagnose, worst
from lowland.training.memory import peak_mb
from lowland.training.preflight import fly
from lowland.training.selection import Selection, held_gap
from lowland.training.session import Session, cpu_threads
from lowland.training.tensorboard import Board


class TrainingStoppedError(RuntimeError):
    """Health stopped the run. The last good checkpoint stands; the message says what was seen,
    tried and what to do.
    """


def load_recipe_data(recipe: Mapping[str, Any]) -> Dataset:
    """The data set that a recipe names."""
    options = {
        key: value for key, value in recipe["data"].items() if key != "name" and value is not None
    }
    return load_data(recipe["data"]["name"], **{"seed": recipe["seed"], **options})


def fit(
    recipe: Mapping[str, Any] | Any,
    run: Run | str | Path,
    *,
    data: Dataset | None = None,
    energy: Energy | None = None,
    progress: bool = True,
) -> Energy:
    """Train a recipe in a run directory, or go on where the run stopped; returns the energy with
    averaged weights.

    recipe: a `Recipe` or its plain values; run: a Run or a path, made if it is not there; data,
    energy: used in place of what the recipe names (pass them again when resuming). A run that was
    killed and resumed equals one that was not, bit for bit: weights, averages, chains, partners and
    log. On trouble the run goes back to a checkpoint, lowers the rate, shortens the sampler's step
    or begins chains anew, whichever the verdict asks for, and writes down what it did; after
    `training.max_rollbacks` attempts it stops. With training.select_by the energy of the best
    checkpoint is returned; with training.progressive_sizes smaller images come first.

    Raises ValueError for data or settings that cannot be trained on, RunError if the directory
    refuses, TrainingStoppedError if health stops the run.

    >>> import lowland, tempfile
    >>> recipe = lowland.read_recipe("moons", {"training.steps": 20, "training.checkpoint_every": 20})
    >>> energy = lowland.fit(recipe, tempfile.mkdtemp() + "/run", progress=False)
    >>> energy.domain.shape
    (2,)
    """
    values = recipe.plain() if hasattr(recipe, "plain") else dict(recipe)
    if values["training"].get("progressive_sizes") and energy is None:
        from lowland.training.grow import grown

        with team() as members:  # open for all sizes
            data = data or members.in_turn(lambda: load_recipe_data(values))
            return grown(
                values, run.path if isinstance(run, Run) else run, data=data, progress=progress
            )
    with team() as members:
        session = Session(
            values, data or members.in_turn(lambda: load_recipe_data(values)), energy, members
        )
        with cpu_threads(session.settings.threads), ExitStack() as held:
            place = (
                run
                if isinstance(run, Run)
                else members.chiefly(lambda: _opened(Path(cast(Any, run)), values))
            )
            members.chiefly(lambda: held.enter_context(place.locked()))
            _train(session, members.shared(place), progress and members.chief)
    return cast(Energy, session.ema.module)


def _opened(path: Path, recipe: dict[str, Any]) -> Run:
    return Run.open(path) if (path / "recipe.json").exists() else Run.create(path, recipe)


def _train(session: Session, run: Run, progress: bool) -> None:
    """Begin or go on, and update until all steps are done, or nothing better was found for long
    enough.
    """
    run.check_versions()
    run.write_json("data.json", _about(session.data))
    rows = _begin(session, run, progress)
    spent = [row["seconds"] for row in run.rows("time.jsonl") if row["step"] == session.step]
    board = Board(
        run.path / "tensorboard" if session.settings.tensorboard and session.team.chief else None
    )
    desk = _Desk(
        session,
        run,
        rows,
        Selection.of(session),
        board,
        time.monotonic() - (spent[-1] if spent else 0.0),
    )
    with _bar(session.settings.steps, session.step, progress) as bar, board:
        while session.step < session.settings.steps and not desk.ended:
            before = session.step
            desk.update(bar)
            bar.update(session.step - before)
    if session.best:
        session.ema.module.load_state_dict(
            run.load_checkpoint(int(session.best["step"])).tensors["ema"]
        )


def _about(data: Dataset) -> dict[str, Any]:
    """What scoring and sampling need to know of the data when the data are not at hand."""
    sizes = {part: len(getattr(data, part)) for part in ("train", "calibration", "test")}
    kept = {
        name: getattr(data, name)
        for name in (
            "name",
            "classes",
            "class_names",
            "num_gray_levels",
            "note",
            "mean",
            "scale",
            "columns",
            "binarization",
            "binarization_note",
        )
    }
    return {**kept, "sizes": sizes}


def _bar(total: int, done: int, shown: bool) -> Any:
    calm = (
        0.2 if sys.stderr.isatty() else 20.0
    )  # a log file wants a line now and then, not thousands
    return tqdm(
        total=total,
        initial=done,
        unit="step",
        disable=not shown,
        mininterval=calm,
        maxinterval=2 * calm,
    )


def _begin(session: Session, run: Run, progress: bool) -> list[dict[str, Any]]:
    """Restore the newest checkpoint, or fly a copy and write the first; returns the log rows that
    lead up to it.
    """
    if run.steps():
        checkpoint = run.load_checkpoint()
        session.restore(checkpoint)
        run.keep_checkpoints({step for step in run.steps() if step <= session.step})
        run.cut_log(checkpoint.state["log_size"])
    else:
        run.cut_log(0)
        if session.settings.preflight != "off":
            flight = session.team.share(fly(session))
            run.log({"step": 0, "event": "preflight", **flight.plain()})
            for sentence in flight.sentences if progress else ():
                tqdm.write(f"preflight: {sentence}", file=sys.stderr)
        run.save_checkpoint(session.checkpoint(run.log_size()))
    return lineage(run.rows())


def lineage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that lead to the present state: no events, nothing that was rolled back; those
    before a cure marked stale.
    """
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row.get("event") == "rollback":
            kept = _stale(kept, row["to"])
        elif "event" not in row:
            kept.append(row)
    return kept


def _stale(rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The rows up to a step, marked as what was before a cure."""
    return [{**row, "stale": True} for row in rows if row["step"] <= step]


@dataclass
class _Desk:
    """What the loop works with. rows: of the log that lead up to the present state; began: moment
    of the first update.
    """

    session: Session
    run: Run
    rows: list[dict[str, Any]]
    selection: Selection | None
    board: Board
    began: float

    @property
    def ended(self) -> bool:
        """Whether nothing better was found for as long as patience lasts."""
        patience = self.session.settings.patience
        return bool(patience) and self.session.best.get("waited", 0) >= patience

    def update(self, bar: Any) -> None:
        """One update; and where it is time, a row in the log, a diagnosis, a checkpoint."""
        session, settings = self.session, self.session.settings
        session.advance()
        if session.step % settings.log_every and session.step < settings.steps:
            return
        saving = session.step % settings.checkpoint_every == 0 or session.step == settings.steps
        row = session.row()
        if saving:
            row |= held_gap(session)
        row, findings = session.team.share((row, diagnose([*self.rows, row])))
        session.health = row["health"] = worst(findings)
        cured = session.health == "bad" and settings.on_failure in ("roll-back", "stop")
        if saving and not cured and self.selection is not None:
            row |= self.selection.judge(session)
            row, session.best = session.team.share((row, session.best))
        self._log(row, findings)
        gap = f"gap {row['gap']:+.3g}, " if "gap" in row else f"loss {row['loss']:.4g}, "
        bar.set_postfix_str(f"{gap}health {row['health']}", refresh=False)
        if cured:
            self._intervene(findings)
        elif saving:
            self._save()

    def _save(self) -> None:
        session, run = self.session, self.run
        run.save_checkpoint(session.checkpoint(run.log_size()))
        best = {int(session.best["step"])} if session.best else set()
        run.keep_checkpoints(
            {*run.steps()[-session.settings.keep_checkpoints :], *self._far()} | best
        )

    def _log(self, row: dict[str, Any], findings: list[Finding]) -> None:
        """Write the row, and an event for every finding that is new or has changed its level."""
        known = {(f.name, f.level) for f in diagnose(self.rows)}
        self.rows.append(row)
        self.run.log(row)
        spent = {
            "seconds": round(time.monotonic() - self.began, 3),
            "peak_mb": round(peak_mb(self.session.device), 1),
        }
        self.run.log({"step": row["step"], **spent}, "time.jsonl")
        self.board.write(row)
        for finding in findings:
            if (finding.name, finding.level) not in known:
                self.run.log({"step": row["step"], "event": "verdict", **finding._asdict()})
                if self.session.settings.on_failure != "continue":
                    self._say(
                        f"step {row['step']}: {finding.level}: {finding.name}: {finding.sentence} "
                        f"{finding.remedy}"
                    )

    def _intervene(self, findings: list[Finding]) -> None:
        """Roll back, the further the sooner trouble came again, and cure what was found; or
        stop.
        """
        session, run = self.session, self.run
        cause = next(f for f in findings if f.level == "bad")
        step, tried, factors = (
            session.step,
            session.rollbacks,
            (session.rate_factor, session.step_factor),
        )
        if session.settings.on_failure == "stop" or tried >= session.settings.max_rollbacks:
            run.log({"step": step, "event": "stop", **cause._asdict()})
            raise TrainingStoppedError(
                f"training stopped at step {step}{self._history()}: {cause.name}: {cause.sentence} "
                f"{cause.remedy} The newest checkpoint is step {run.steps()[-1]} in {run.path}."
            )
        again = self._again(step)
        saved = run.steps()  # those in bad health are not among them
        halfway = max((at for at in saved if at <= saved[-1] / 2), default=saved[0])
        checkpoint = run.load_checkpoint((saved[-1], halfway, saved[0])[min(again, 2)])
        session.restore(checkpoint)
        session.rollbacks = tried + 1
        done = self._cure(cause.cure, factors, 0.25 if again else 0.5)
        run.keep_checkpoints({kept for kept in run.steps() if kept <= checkpoint.step})
        run.log(
            {
                "step": step,
                "event": "rollback",
                "to": checkpoint.step,
                "did": done,
                **cause._asdict(),
            }
        )
        self.rows[:] = _stale(self.rows, checkpoint.step)
        self._say(
            f"step {step}: {cause.name}: {cause.sentence} Rolled back to step {checkpoint.step}, "
            f"{done}."
        )

    def _far(self) -> set[int]:
        """Checkpoints for when the newest is not far enough back: the start, and one a quarter to
        half of the way.
        """
        every = self.session.settings.checkpoint_every
        power = 1 << max(self.session.step // every, 1).bit_length() - 1
        return {0, every * power, every * power // 2}

    def _again(self, step: int) -> int:
        """How many troubles came shortly before this one: the second goes back half of the way, the
        third to the start.
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

    def _say(self, words: str) -> None:
        if self.session.team.chief:
            tqdm.write(words, file=sys.stderr)

    def _cure(self, cure: str, factors: tuple[float, float], shorter: float) -> str:
        """Lower the rate from what it was when trouble came, and shorten the step or begin chains
        anew; says what it did.
        """
        session = self.session
        session.rate_factor = factors[0]
        session.lower_rate(0.5)
        done = [f"learning rate × {session.rate_factor:g}"]
        session.shorten(factors[1] / session.step_factor)
        if cure == "step" and session.shorten(shorter):
            done.append(f"sampler step × {session.step_factor:g}")
        if cure == "chains" and (count := session.renew(0.5)):
            done.append(f"{count} chains begun anew")
        return ", ".join(done)

    def _history(self) -> str:
        cures = [row["did"] for row in self.run.rows() if row.get("event") == "rollback"]
        return f" after {len(cures)} rollbacks ({'; '.join(cures)})" if cures else ""
