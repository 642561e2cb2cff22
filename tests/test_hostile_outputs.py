"""Where results go: new files or nothing, one writer, pieces by checksum, classes by name."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from lowland import Model, atomic, commands, load
from lowland.trained import jobs, sampling
from lowland.trained.jobs import Job
from lowland.trained.labels import find_label
from lowland.trained.targets import check_new, name_output
from lowland.training.distributed import Team

QUICK: dict[str, Any] = {"set": ["generation.steps=2"], "quiet": True}


@pytest.fixture(scope="module")
def digits() -> Model:
    return load("digits")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_picture(path: Path, side: int = 8) -> Path:
    Image.fromarray(np.full((side, side), 99, np.uint8)).save(path)
    return path


# every command that writes, with one picture that it reads
WRITERS: dict[str, Callable[..., object]] = {
    "sample": lambda picture, **how: commands.sample("digits", count=2, **QUICK, **how),
    "energy": lambda picture, **how: commands.energy("digits", [picture], **how),
    "detect": lambda picture, **how: commands.detect("digits", [picture], quiet=True, **how),
    "detect fit": lambda picture, **how: commands.detect_fit(
        "digits", calibration=[picture], quiet=True, alpha=0.6, **how
    ),
    "restore": lambda picture, **how: commands.restore("mnist", picture, quiet=True, **how),
    "purify": lambda picture, **how: commands.purify("digits", [picture], steps=1, **how),
    "edit": lambda picture, **how: commands.edit(
        "digits", picture, label=3, steps=1, draws=1, quiet=True, **how
    ),
    "interpolate": lambda picture, **how: commands.interpolate(
        "digits", picture, picture, steps=1, quiet=True, **how
    ),
    "compose": lambda picture, **how: commands.compose(
        ["digits"], count=1, steps=1, quiet=True, **how
    ),
    "attack": lambda picture, **how: commands.attack("digits", count=2, quiet=True, **how),
    "bench": lambda picture, **how: commands.bench("ood", ["digits"], count=20, quiet=True, **how),
}
SUFFIX = {"energy": ".csv", "detect": ".csv", "detect fit": ".d", "attack": ".json"}


def make_odd(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "link":
        path.with_name("victim").write_text("old")
        path.symlink_to(path.with_name("victim"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("old", encoding="utf-8")


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder", "file"])
@pytest.mark.parametrize("verb", WRITERS)
def test_nothing_that_is_there_is_replaced_without_a_word(
    verb: str, kind: str, tmp_path: Path
) -> None:
    picture = write_picture(tmp_path / "in.png", 28 if verb == "restore" else 8)
    out = tmp_path / f"out{SUFFIX.get(verb, '.png')}"
    make_odd(kind, out)
    before = os.lstat(out)
    for force in (False,) if kind == "file" else (False, True):
        with pytest.raises(ValueError) as caught:
            WRITERS[verb](picture, out=out, force=force)
        assert str(caught.value).count(";") >= 2 and "out" in str(caught.value)
    after = os.lstat(out)
    assert (before.st_mode, before.st_ino, before.st_size) == (
        after.st_mode,
        after.st_ino,
        after.st_size,
    )
    if kind == "link":
        assert (tmp_path / "victim").read_text() == "old"


@pytest.mark.parametrize("verb", ["sample", "energy", "detect", "purify", "compose"])
def test_force_replaces_a_file(verb: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in.png")
    out = tmp_path / f"out{SUFFIX.get(verb, '.npy')}"
    out.write_text("old")
    WRITERS[verb](picture, out=out, force=True)
    assert out.read_bytes() != b"old"


BAD_NAMES = {
    "too long": "a" * 251 + ".npy",
    "NUL": "a\0b.npy",
    "a dash": "-x.npy",
    "below a file": "in.png/x.npy",
    "a way too long": "/".join(["a" * 200] * 30) + "/x.npy",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("verb", ["sample", "energy", "purify", "compose", "edit"])
def test_names_that_cannot_be_written(verb: str, name: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in.png")
    with pytest.raises(ValueError) as caught:
        WRITERS[verb](picture, out=BAD_NAMES[name])
    assert str(caught.value).count(";") >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png"]


@pytest.mark.parametrize("verb", ["energy", "purify", "edit", "interpolate", "restore"])
def test_the_input_is_never_the_output(verb: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in.png", 28 if verb == "restore" else 8)
    (tmp_path / "hard.png").hardlink_to(picture)
    (tmp_path / "sub").mkdir()
    old = picture.read_bytes()
    for out in ("in.png", "./sub/../in.png", "hard.png"):
        with pytest.raises(ValueError, match="is the file that is read"):
            WRITERS[verb](picture, out=out, force=True)
    assert picture.read_bytes() == old


@pytest.mark.parametrize(
    "inner",
    ["recipe.json", "log.jsonl", "calibration.safetensors", "step-00000005/x.npy", ".x.npy"],
)
def test_nothing_is_written_among_the_files_of_a_run(inner: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "step-00000005").mkdir(parents=True)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    (tmp_path / "way").symlink_to(tmp_path / "run")
    for folder in ("run", "way"):
        with pytest.raises(ValueError, match="among the files that the run"):
            check_new([tmp_path / folder / inner], force=True)
    check_new([tmp_path / "run" / "samples.png"])
    with pytest.raises(ValueError, match="among the files"):
        commands.energy("digits", [write_picture(tmp_path / "a.png")], out=tmp_path / "run" / inner)


def test_results_that_nobody_named_lie_apart_and_replace_nothing(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in.png")
    made = [commands.purify("digits", [picture], steps=1) for _ in range(2)]
    assert made == [Path("outputs/in-purified.png"), Path("outputs/in-purified-2.png")]
    Path("outputs/in-edited.npz").touch()
    assert name_output(picture, None, "edited") == Path("outputs/in-edited-2.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "outputs"]
    # and the folder that holds them is read without them
    with pytest.warns(UserWarning, match="2 written by lowland"):
        assert str(commands.energy("digits", [tmp_path])).count("\n") == 2


@pytest.mark.parametrize("verb", ["energy", "detect", "purify", "edit", "interpolate", "restore"])
def test_every_reader_refuses_another_size(verb: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in.png", 512)
    with pytest.raises(ValueError, match=r"is 512 × 512; pictures of .* --resize"):
        WRITERS[verb](picture)
    assert not Path("outputs").exists()
    if verb in ("energy", "detect", "purify"):
        WRITERS[verb](picture, resize=True)


# ---------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_counts_that_no_disk_holds_are_refused_with_their_bytes(suffix: str) -> None:
    for count in (10**12, 10**30):
        with pytest.raises(ValueError, match=r"needs .* bytes|one picture holds") as caught:
            commands.sample("digits", count=count, out=f"x{suffix}", quiet=True)
        assert str(caught.value).count(";") >= 2
    for count in (True, 2.5, "3", 0, -1):
        with pytest.raises(ValueError, match="count is"):
            commands.sample("digits", count=count, out=f"x{suffix}", quiet=True)
    assert not list(Path().iterdir())


def test_draws_that_no_memory_holds_are_refused(digits: Model) -> None:
    x, g = torch.rand(2, 1, 8, 8), torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"needs .* bytes"):
        digits.edit(x, 3, generator=g, draws=10**12)
    with pytest.raises(ValueError, match=r"needs .* bytes"):
        digits.interpolate(x, x, 10**12)
    with pytest.raises(ValueError, match=r"needs .* bytes"):
        commands.compose(["digits"], count=10**12, quiet=True)
    assert np.load(
        commands.sample("digits", count=np.int64(2), seed=np.int32(1), out="y.npy", **QUICK)
    ).shape == (2, 1, 8, 8)


# ----------------------------------------------------------------------------------- jobs, pieces


def make_job(seed: int = 0, out: Path = Path("x.npy")) -> Job:
    return Job(out, {"seed": seed}, 4, Team())


def work(job: Job, most: int = 4) -> list[int]:
    """Make up to `most` of the pieces that are missing, and finish the job if that is all."""
    with job.open() as missing:
        for number in missing[:most]:
            job.keep(number, f"{job.plan['seed']}-{number} ".encode())
        if len(missing) <= most:
            job.finish(lambda path: path.write_bytes(b"".join(job)))
    return missing


WHOLE = b"0-0 0-1 0-2 0-3 "


def test_a_job_goes_on_where_it_was() -> None:
    assert work(make_job(), 2) == [0, 1, 2, 3] and work(make_job()) == [2, 3]
    assert Path("x.npy").read_bytes() == WHOLE
    assert [path.name for path in Path().iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    "how", ["cut", "forged", "empty", "moved", "gone", "link", "folder", "digest"]
)
def test_damaged_pieces_are_made_again(how: str) -> None:
    work(make_job(), 3)
    folder = make_job().folder
    piece = folder / "00000000"
    if how == "cut":
        piece.write_bytes(piece.read_bytes()[:-1])
    elif how == "forged":
        piece.write_bytes(b"7-7 ")
    elif how == "empty":
        piece.write_bytes(b"")
    elif how == "moved":  # a whole piece, and its checksum, under the name of another
        piece.write_bytes((folder / "00000001").read_bytes())
        (folder / "sha256-00000000").write_bytes((folder / "sha256-00000001").read_bytes())
    elif how == "digest":
        (folder / "sha256-00000000").unlink()
    else:
        piece.unlink()
        if how == "link":
            Path("elsewhere").write_bytes(b"0-0 ")
            piece.symlink_to(Path("elsewhere").absolute())
        if how == "folder":
            piece.mkdir()
    if how in ("link", "folder"):  # what is no file of ours is not touched: said, in words
        with pytest.raises(ValueError) as caught:
            work(make_job())
        assert str(caught.value).count(";") >= 2
        return
    assert work(make_job()) == [0, 3]
    assert Path("x.npy").read_bytes() == WHOLE


def test_pieces_of_another_job_are_thrown_away() -> None:
    work(make_job(seed=1), 3)
    (make_job().folder / "sub").mkdir()
    assert work(make_job(seed=0)) == [0, 1, 2, 3]
    assert Path("x.npy").read_bytes() == WHOLE


def test_an_output_has_one_writer() -> None:
    job = make_job()
    with job.open() as missing:
        for seed in (0, 1):
            with pytest.raises(ValueError, match=r"another process; a file has one writer; wait"):
                work(make_job(seed))
        for number in missing:
            job.keep(number, f"0-{number} ".encode())
        job.finish(lambda path: path.write_bytes(b"".join(job)))
    assert Path("x.npy").read_bytes() == WHOLE


def test_a_piece_that_goes_while_others_are_made_is_missed() -> None:
    job = make_job()
    with job.open() as missing:
        for number in missing:
            job.keep(number, f"0-{number} ".encode())
        (job.folder / "00000002").write_bytes(b"9-9 ")
        with pytest.raises(ValueError, match=r"piece 2 of x.npy was damaged"):
            job.finish(lambda path: path.write_bytes(b"".join(job)))
    assert not Path("x.npy").exists() and work(make_job()) == [2]
    assert Path("x.npy").read_bytes() == WHOLE


@pytest.mark.parametrize("at", range(10))
def test_a_full_disk_leaves_what_is_done(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write of a file: said in words, nothing of half a result, resumable."""
    code = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)[at % 4]
    calls: list[Path] = []
    real = atomic.write_bytes

    def write_or_fail(target: Path, data: bytes) -> None:
        calls.append(target)
        if len(calls) > at:
            raise OSError(code, os.strerror(code), str(target))
        real(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write_bytes", write_or_fail)
        try:
            work(make_job())
        except ValueError as error:
            assert str(error).count(";") >= 2 and os.strerror(code) in str(error)
            assert str(make_job().folder) in str(error) and not Path("x.npy").exists()
    if not Path("x.npy").exists():
        assert len(work(make_job())) == 4 - max(0, (at - 1) // 2)
    assert Path("x.npy").read_bytes() == WHOLE


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_planted_folder_of_pieces_is_not_followed(kind: str, tmp_path: Path) -> None:
    folder = make_job().folder
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("old")
    if kind == "file":
        folder.write_text("old")
    else:
        folder.symlink_to(tmp_path / ("victim" if kind == "link" else "nothing"))
    with pytest.raises(ValueError) as caught:
        work(make_job())
    assert str(caught.value).count(";") >= 2
    assert (tmp_path / "victim" / "precious").read_text() == "old"


def test_a_forged_sample_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PIECE", 2)
    commands.sample("digits", count=6, out="whole.npy", **QUICK)
    real, drawn = sampling._draw_piece, []

    def draw_or_stop(*arguments: Any) -> bytes:
        drawn.append(arguments[4])
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(sampling, "_draw_piece", draw_or_stop)
    with pytest.raises(KeyboardInterrupt):
        commands.sample("digits", count=6, out="x.npy", **QUICK)
    piece = Path(".x.npy.pieces/00000000")
    forged = load_tensors(piece.read_bytes())
    piece.write_bytes(dump_tensors({name: x * 0 + 7 for name, x in forged.items()}))
    commands.sample("digits", count=6, out="x.npy", **QUICK)
    assert drawn == [0, 1, 2, 0, 2]  # what was whole is not drawn again
    assert Path("x.npy").read_bytes() == Path("whole.npy").read_bytes()


# ----------------------------------------------------------------------------------------- labels


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def with_names(model: Model, *names: str) -> Model:
    named = replace(model)
    named.__dict__["description"] = {**model.description, "class_names": list(names)}
    return named


def test_labels_go_by_name_first(digits: Model) -> None:
    words = with_names(digits, *WORDS)
    assert find_label(words, "seven") == 7 and find_label(words, "7") == 7
    assert find_label(words, 7) == find_label(words, np.int64(7)) == 7
    jumps = with_names(digits, "1", "2", "10", "20", "30", "40", "50", "60", "70", "80")
    assert find_label(jumps, "10") == 2 and find_label(jumps, 2) == 2
    assert [find_label(digits, str(k)) for k in range(10)] == list(range(10))
    assert find_label(digits, None) is None
    for model, label in (
        (jumps, "3"),  # no class of that name, and a number would be another name
        (jumps, "0"),
        (words, "ten"),
        (words, "Seven"),
        (words, "10"),
        (digits, "10"),
        (digits, 10),
        (digits, -1),
        (digits, "-1"),
        (digits, True),
        (digits, 2.5),
        (digits, "\u0663"),
    ):
        with pytest.raises(ValueError) as caught:
            find_label(model, label)  # type: ignore[arg-type]
        assert str(caught.value).count(";") >= 2
    with pytest.raises(ValueError, match="its classes are 1, 2, 10, 20"):
        find_label(jumps, "0")


def test_every_command_takes_names(monkeypatch: pytest.MonkeyPatch, digits: Model) -> None:
    from lowland import cli

    about = {**digits.description, "class_names": list(WORDS)}
    monkeypatch.setattr(Model, "description", about)
    picture = str(write_picture(Path("in.png")))
    quick = ["--set", "generation.steps=2", "--quiet"]
    cli.main(["sample", "digits", "--count", "2", "--label", "seven", "--out", "a.npz", *quick])
    assert np.load("a.npz")["labels"].tolist() == [7, 7]
    few = ["--steps", "1", "--quiet"]
    cli.main(["edit", "digits", picture, "--label", "nine", "--out", "e.npy", *few])
    cli.main(["compose", "digits", "--labels", "two", "--count", "1", "--out", "c.npy", *few])
    cli.main(["compose", "digits", "--labels=-1", "--count", "1", "--out", "d.npy", *few])
    wrong = (["edit", "digits", picture, "--label", "ten"], ["compose", "digits", "--labels", "x"])
    for words in wrong:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *few])
        assert ended.value.code == 2
