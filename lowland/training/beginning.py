"""Begin a run: try out what can be tried before anything is written, and leave nothing behind where
the training is refused after all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowland.run import Run, RunError
from lowland.training.identity import HASHES
from lowland.training.kept_data import EXAMPLES
from lowland.training.preflight import ProbeReport, probe
from lowland.training.rehearsal import rehearse
from lowland.training.session import Session

# before an update
WRITTEN = ("recipe.json", "data.json", HASHES, EXAMPLES, "log.jsonl", "time.jsonl", ".lock")


def prepare(session: Session, run: Run | str | Path) -> ProbeReport | None:
    """Rehearse the evaluation of a run that has not begun, and probe its first updates; return the
    report of the probe, None if there was none.

    Raises ValueError for settings that cannot be trained or evaluated with.
    """
    opened = run if isinstance(run, Run) else Run(run)
    if session.team.on_main(lambda: bool(opened.steps())):
        return None
    session.team.on_main(lambda: rehearse(session))
    if session.settings.preflight == "off":
        return None
    return session.team.broadcast(probe(session))


@contextmanager
def remove_refused(run: Run | str | Path) -> Iterator[None]:
    """Remove what was written for a run whose training raised ValueError before it was saved for
    the first time after an update; a folder that was there before stays.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    there, begun = path.exists(), (path / "recipe.json").exists()
    try:
        yield
    except RunError:
        raise
    except ValueError:
        if not begun and not any(Run(path).steps()):  # the first checkpoint is of step 0
            _remove(path, whole=not there)
        raise


def _remove(path: Path, whole: bool) -> None:
    if whole:
        shutil.rmtree(path, ignore_errors=True)
        return
    for name in WRITTEN:
        (path / name).unlink(missing_ok=True)
    for checkpoint in path.glob("step-00000000"):
        shutil.rmtree(checkpoint, ignore_errors=True)
