"""Damages the files of a run that was killed, and resumes it: the same result, or one line, never anything else.

    python tests/attacks/damage.py 1000

Each attack copies the run, changes it at random (bits, blocks, lengths, lines, names, whole files and folders), and
resumes. Where the resume is refused and names an earlier checkpoint, that one is used as well.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attack_runs import RUN, command, different, make_killed, make_whole, result


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _change(path: Path, change: Callable[[bytearray], object]) -> str:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path.name


def _block(rng: random.Random, data: bytearray) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, start + rng.choice((1, 8, 64, 512, 4096)))


def flip_bit(rng: random.Random, path: Path) -> None:
    def change(data: bytearray) -> None:
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    _change(path, change)


def zero_block(rng: random.Random, path: Path) -> None:
    def change(data: bytearray) -> None:
        where = _block(rng, data)
        data[where] = bytes(len(data[where]))

    _change(path, change)


def random_block(rng: random.Random, path: Path) -> None:
    def change(data: bytearray) -> None:
        where = _block(rng, data)
        data[where] = rng.randbytes(len(data[where]))

    _change(path, change)


def cut_out(rng: random.Random, path: Path) -> None:
    _change(path, lambda data: data.__delitem__(_block(rng, data)))


def insert(rng: random.Random, path: Path) -> None:
    def change(data: bytearray) -> None:
        start = rng.randrange(len(data) + 1)
        data[start:start] = rng.randbytes(rng.choice((1, 8, 512)))

    _change(path, change)


def truncate(rng: random.Random, path: Path) -> None:
    _change(path, lambda data: data.__delitem__(slice(rng.randrange(len(data) + 1), None)))


def append(rng: random.Random, path: Path) -> None:
    tail = rng.choice((bytes(4096), rng.randbytes(100), b"\0\0\n\0\n", b"1,2\n", b"{}\n", b"\xff\xfe\n"))
    _change(path, lambda data: data.extend(tail))


def change_digit(rng: random.Random, path: Path) -> None:
    def change(data: bytearray) -> None:
        if digits := [i for i, byte in enumerate(data) if chr(byte).isdecimal()]:
            data[rng.choice(digits)] = rng.choice(b"0123456789")

    _change(path, change)


def change_lines(rng: random.Random, path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        number = rng.randrange(len(lines))
        lines[number : number + 1] = rng.choice(([], [lines[number]] * 2, [rng.choice(lines)]))
    path.write_bytes(b"".join(lines))


def remove(rng: random.Random, path: Path) -> None:
    path.unlink()


def make_folder(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(rng: random.Random, path: Path) -> None:
    run = next(parent for parent in path.parents if (parent / "checkpoints").exists())
    alike = [other for other in _files(run) if other.suffix == path.suffix and other != path]
    if alike:
        other = rng.choice(alike)
        data = path.read_bytes()
        if rng.random() < 0.5:
            path.write_bytes(other.read_bytes())
        else:
            other.write_bytes(data)


FILE_DAMAGES = (
    *(flip_bit, zero_block, random_block, cut_out, insert, truncate, append, change_digit, change_lines),
    *(remove, make_folder, swap),
)


def remove_folder(rng: random.Random, run: Path) -> None:
    shutil.rmtree(rng.choice([path for path in run.rglob("*") if path.is_dir()]))


def rename_checkpoint(rng: random.Random, run: Path) -> None:
    path = rng.choice(sorted((run / "checkpoints").iterdir()))
    name = rng.choice(("000000170", "000000090", "000001000", "160", f"{path.name}.bak", "old", "²"))
    path.rename(path.with_name(name))


def stray(rng: random.Random, run: Path) -> None:
    folder = run / rng.choice(("checkpoints", "replay", ".", "checkpoints/000000160", "episodes"))
    folder.mkdir(exist_ok=True)
    names = ("000000170", "000000220", ".000000160.old", ".000000160.new", "notes.txt", "state.json", "²", "1" * 12)
    path = folder / rng.choice((*names, "frames-00000.bin", "frames-00009.bin", "rows-99999.bin"))
    if path.exists():
        return
    if rng.random() < 0.5:
        path.mkdir()
    else:
        path.write_bytes(rng.randbytes(10))


FOLDER_DAMAGES = (remove_folder, rename_checkpoint, stray)


def damage(rng: random.Random, run: Path) -> str:
    """Damage a run folder at random. Returns what was done, in words."""
    if rng.random() < 0.2:
        attack = rng.choice(FOLDER_DAMAGES)
        attack(rng, run)
        return attack.__name__
    # Each kind of file is as likely as any other.
    groups: dict[str, list[Path]] = {}
    for path in _files(run):
        groups.setdefault(re.sub(r"\d+", "N", str(path.relative_to(run))), []).append(path)
    path = rng.choice(groups[rng.choice(sorted(groups))])
    attack = rng.choice(FILE_DAMAGES)
    attack(rng, path)
    return f"{attack.__name__} {path.relative_to(run)}"


def resume(run: Path, expected: dict[str, bytes]) -> tuple[str, str]:
    """Resume a damaged run. Returns what came of it, and the output."""
    before = {path: path.read_bytes() for path in _files(run)}
    end = command("resume", str(run))
    if end.status == 0:
        if not (names := different(expected, run)):
            return "same", ""
        said = "resume is not exact" in end.output or "settings were changed: " in end.output
        return "said" if said else f"SILENT {', '.join(names)}", end.output
    if not end.refused:
        return "TRACEBACK" if end.status != -1 else "HANG", end.output
    lost = [path for path, data in before.items() if not path.is_file() or path.read_bytes() != data]
    if changed := [path.name for path in lost if path.name not in ("lock", "run.json")]:
        return f"LOST {', '.join(changed)}", end.output
    if "resume with: " in end.output:
        return "BAD ADVICE", end.output
    if hint := re.search(r"--checkpoint (\d+)", end.output.replace("evaluated with", "").partition("; the policy")[0]):
        end = command("resume", str(run), "--checkpoint", hint[1])
        if end.status == 0:
            names = different(expected, run)
            return ("same from the one before", "") if not names else (f"SILENT {', '.join(names)}", end.output)
        return "refused, the one before, too" if end.refused else "TRACEBACK", end.output
    return "refused", end.output


def main(count: int, seed: int) -> int:
    """Run ``count`` attacks, print what came of them, and return the exit status."""
    counts: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        expected = result(make_whole(folder / "whole"))
        killed = make_killed(folder / "killed")
        for number in range(seed, seed + count):
            rng = random.Random(number)
            run = folder / "run" / RUN
            shutil.copytree(killed, run)
            what = damage(rng, run)
            outcome, output = resume(run, expected)
            counts[outcome.partition(" ")[0] if outcome.isupper() else outcome] += 1
            if outcome.partition(" ")[0].isupper():
                bad += 1
                print(f"seed {number}: {what}: {outcome}\n{output}", flush=True)
            shutil.rmtree(folder / "run")
            if (done := number - seed + 1) % 100 == 0:
                print(f"{done} of {count}, {bad} bad", file=sys.stderr, flush=True)
    for outcome, number in counts.most_common():
        print(f"{number:6d} {outcome}")
    print(f"{count} damages, {bad} with neither the same result nor one line")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
