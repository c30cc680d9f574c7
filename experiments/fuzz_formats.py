"""Broken model files: whatever is done to a file, its reader refuses it with a reason, or reads what it then says.

Files of random models are cut, flipped, spliced and filled with hostile numbers. Every reading is held against a
second one in exact arithmetic (`experiments.formats_oracle`), a clock and a bound on memory.

python -m experiments.fuzz_formats --files 10000
"""

import io
import json
import random
import re
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from dp import formats
from dp.dense import make_mdp
from dp.formats import Model
from dp.sparse import from_choices
from experiments import record
from experiments.formats_oracle import agrees, arrays_agree, drn, prism

Format = Literal["drn", "prism", "npz"]
FORMATS: tuple[Format, ...] = ("drn", "prism", "npz")
# Of the processor: a machine busy with other work is no fault of a reader.
SECONDS = 5.0
# Peak of Python's and NumPy's memory: so many bytes for every byte of the file, and what reading nothing takes.
BYTES, BASE = 600, 2**20

NUMBERS = """0 1 -1 2 7 0.5 0.25 1/3 -0.5 .5 5. . + - -0 1e-9 1e9 1e308 1e309 1e-320 1e-400 1e999999999 -1e999999999 1/0
0/0 1/3/5 1//3 1/-3 nan inf -inf infinity NaN 0x10 1_0 1e 1e+ ١ ² 1,5 $0 p [1] [1,2] 0.1[ 0.3333333333 0.33 1.0000001
0.9999999999 99 10000000 2147483648 4294967296 9223372036854775807 9223372036854775808 999999999999999
""".split()  # noqa: SIM905
NUMBERS += ["9" * 5000, "1/" + "9" * 3000, "0." + "3" * 1000, "1e" + "9" * 100, "1" + "0" * 400 + "/1" + "0" * 400]
WORDS = ["state", "action", "@model", "//", '"', "#", "__import__"]
CHARACTERS = [b" ", b"\t", b"\n", b"0", b":", b"-", b"e", b"\r"]


class Attempt(NamedTuple):
    """What was done to a file and what came of it; `wrong` says what should not have happened."""

    seed: int
    format: Format
    damage: str
    outcome: Literal["refused", "read"]
    wrong: str | None


def random_model(rng: random.Random) -> Model:
    """Return a model with labels, names and one kind of rewards."""
    S = rng.randint(1, 6)
    owned = [rng.randint(1, 3) for _ in range(S)]
    rows = [sorted(rng.sample(range(S), rng.randint(1, S))) for _ in range(sum(owned))]
    weights = [[rng.choice([1, 1, 2, 3, 0.1]) for _ in row] for row in rows]
    data = np.array([w / sum(row) for row in weights for w in row])
    indptr, choices = np.cumsum([0, *map(len, rows)]), np.cumsum([0, *owned])
    R = np.array([rng.choice([0.0, 1.0, -2.5, rng.gauss(0, 1)]) for _ in rows])
    mdp = from_choices(data, np.concatenate(rows), indptr, choices, R, 0.9)
    labels = {name: np.array([rng.random() < 0.5 for _ in range(S)]) for name in rng.sample(["goal", "a b", "x"], 2)}
    states = tuple(f"s={s}" for s in range(S)) if rng.random() < 0.5 else None
    actions = tuple(rng.choice(["go", "stay"]) for _ in rows) if rng.random() < 0.5 else None
    return Model(mdp, np.arange(S) == 0, labels, {"": R}, states, actions)


def damages(data: bytes, rng: random.Random) -> dict[str, Callable[[], bytes]]:
    """Return what can be done to the bytes of a file."""
    lines = data.split(b"\n")
    at, n = rng.randrange(len(data) + 1), rng.randrange(len(lines))
    other = rng.randrange(len(lines))
    words = [*re.finditer(rb"[-+.\w/]+", data)]
    word = rng.choice(words) if words else None
    numbers = [*re.finditer(rb"(?<![\w.])\d[\d.e/+-]*", data)]
    number = rng.choice(numbers) if numbers else None

    def replace(match: re.Match[bytes] | None, text: bytes) -> bytes:
        return data if match is None else data[: match.start()] + text + data[match.end() :]

    def flip() -> bytes:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return {
        "nothing": lambda: data,
        "cut off": lambda: data[:at],
        "cut off at a line": lambda: b"\n".join(lines[:n]) + b"\n",
        "bits flipped": flip,
        "piece removed": lambda: data[:at] + data[at + rng.randint(1, 30) :],
        "noise inserted": lambda: data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:],
        "only noise": lambda: rng.randbytes(rng.randint(0, 300)),
        "line removed": lambda: b"\n".join(lines[:n] + lines[n + 1 :]),
        "line twice": lambda: b"\n".join([*lines[:n], lines[n], *lines[n:]]),
        "lines exchanged": lambda: b"\n".join(
            lines[other] if k == n else lines[n] if k == other else x for k, x in enumerate(lines)
        ),
        "number replaced": lambda: replace(number, rng.choice(NUMBERS).encode()),
        "number of the file": lambda: replace(number, rng.choice(numbers)[0] if numbers else b""),
        "word replaced": lambda: replace(word, rng.choice(NUMBERS + WORDS).encode()),
        "word of the file": lambda: replace(word, rng.choice(words)[0] if words else b""),
        "piece twice": lambda: data[:at] + data[max(0, at - rng.randint(1, 200)) :],
        "a great deal": lambda: data + data[at:] * rng.randint(1, 50),
        "character inserted": lambda: data[:at] + rng.choice(CHARACTERS) + data[at:],
    }


def packed_otherwise(data: bytes, rng: random.Random) -> dict[str, Callable[[], bytes]]:
    """Return what can be done to an npz file whose checksums are then right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))

    def packed(changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for key, content in changed.items():
                archive.writestr(key, content)
        return file.getvalue()

    def array(x: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, x)
        return file.getvalue()

    def header() -> bytes:
        shape = rng.choice(["(99999999999,)", "(-1,)", "(2, 2)", "()", "(0,)", "(1e9,)", "(9999, 9999, 9999)"]).encode()
        changed = re.sub(rb"'shape': \([^)]*\)", b"'shape': " + shape, members[name])
        return packed({**members, name: changed})

    def dtype() -> bytes:
        return packed({**members, name: members[name].replace(b"<f8", rng.choice([b"<i8", b"|O8", b">f8"]))})

    def number() -> bytes:
        x = np.load(io.BytesIO(members[name])).copy()
        if x.size:
            x.ravel()[rng.randrange(x.size)] = rng.choice(
                [0, 1, 2, 127] if x.dtype.kind in "bui" else [0.5, np.nan, np.inf]
            )
        return packed({**members, name: array(x)})

    def about() -> bytes:
        said = json.loads(np.load(io.BytesIO(members["about.npy"])).tobytes())
        said[rng.choice(list(said))] = rng.choice([None, 1, "dense", [], ["a", "a"], {}, [[]], True])
        return packed({**members, "about.npy": array(np.frombuffer(json.dumps(said).encode(), np.uint8))})

    return {
        "array cut off": lambda: packed({**members, name: members[name][: rng.randrange(len(members[name]))]}),
        "array of objects": lambda: packed({**members, name: array_of_objects()}),
        "array exchanged": lambda: packed({**members, name: members[rng.choice(list(members))]}),
        "array missing": lambda: packed({key: x for key, x in members.items() if key != name}),
        "array too many": lambda: packed({**members, "more.npy": members[name], "../../x.npy": b""}),
        "shape changed": header,
        "number changed": number,
        "dtype changed": lambda: packed(
            {**members, name: members[name].replace(b"<f8", rng.choice([b"<i8", b"|O8", b">f8"]))}
        ),
        "names changed": about,
        "compressed": lambda: packed(members, zipfile.ZIP_DEFLATED),
        "bomb": lambda: packed({**members, name: bytes(10**6)}, zipfile.ZIP_DEFLATED),
    }


def array_of_objects() -> bytes:
    """Return a .npy file that can only be read with pickle."""
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


def attempt(seed: int, folder: Path) -> Attempt:
    """Write a random model, break one of its files, read it, and judge what came of it."""
    rng, format = random.Random(seed), FORMATS[seed % len(FORMATS)]
    model = random_model(rng)
    path = folder / f"model.{format}"
    files: dict[str, Path] = {"": path}
    if format == "drn":
        formats.write_drn(path, model)
    elif format == "npz":
        formats.write_npz(path, rng.choice([model.mdp, dense(model)]))
    else:
        files = {key: folder / f"model.{key}" for key in ("tra", "lab", "srew", "trew")}
        formats.write_prism(folder / "model", model)
        S = model.mdp.size
        files["srew"].write_text("\n".join([f"{S} {S}", *(f"{s} {s / 4}" for s in range(S))]) + "\n")
        unname(files["trew"])
    victim = rng.choice(list(files.values()))
    data = victim.read_bytes()
    ways = damages(data, rng)
    if format == "npz" and rng.random() < 0.6:
        ways = packed_otherwise(data, rng)
    damage = rng.choice(list(ways))
    victim.write_bytes(ways[damage]())
    outcome, wrong = judge(format, files, whole=damage == "nothing")
    return Attempt(seed, format, damage, outcome, wrong)


def dense(model: Model):
    """Return a dense MDP of as many states."""
    S = model.mdp.size
    return make_mdp(np.full((S, 2, S), 1 / S), np.asarray(model.rewards[""])[:S], 0.9)


def unname(trew: Path) -> None:
    """Take the name out of a file of rewards, so that all have the same."""
    trew.write_text("".join(line for line in trew.read_text().splitlines(True) if not line.startswith("# Reward")))


def judge(format: Format, files: dict[str, Path], *, whole: bool) -> tuple[Literal["refused", "read"], str | None]:
    """Read files; return what came of it, and what is wrong with that; whole: they were not broken."""
    size = sum(path.stat().st_size for path in files.values())
    start, wrong, found, refusal = time.process_time(), None, None, ""
    tracemalloc.start()
    try:
        if format == "drn":
            found = formats.read_drn(files[""])
        elif format == "npz":
            found = formats.read_npz(files[""])
        else:
            found = formats.read_prism(files["tra"], lab=files["lab"], srew=files["srew"], trew=files["trew"])
    except ValueError as error:
        refusal = str(error)
        place = "" if format == "npz" else r"\d+: "
        if not any(re.match(rf"{re.escape(str(path))}:{place or ' '}\S", refusal) for path in files.values()):
            wrong = f"the error names no place: {refusal}"
    except Exception as error:
        refusal = wrong = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = time.process_time() - start
    if seconds > SECONDS:
        wrong = f"it took {seconds:.1f} s of the processor"
    elif peak > BYTES * size + BASE:
        wrong = f"it took {peak:,} bytes for a file of {size:,}"
    elif found is not None and not right(format, files, found):
        wrong = "what was read is not what the file says"
    elif found is None and whole:
        wrong = f"a good file was refused: {refusal}"
    return "refused" if found is None else "read", wrong


def right(format: Format, files: dict[str, Path], found) -> bool:
    """Return whether what was read is what the second reading finds."""
    try:
        if format == "npz":
            return arrays_agree(files[""].read_bytes(), found)
        texts = {key: path.read_bytes().decode() for key, path in files.items()}
        return agrees(drn(texts[""]) if format == "drn" else prism(**texts), found)
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError, OverflowError):
        return False


def main(*, files: int = 10000, seed: int = 0, out: Path = Path("results/fuzz_formats")) -> dict:
    """Break files of models and read them.

    Args:
        files: how many, in turn of every format.
        seed: of the first file; the others follow.
        out: folder for metrics.json.
    """
    arguments = locals()
    record.require(files >= 1, f"files must be at least 1, got {files}")
    record.require_run(seed, out)
    jax.config.update("jax_enable_x64", True)
    found, clock, start = [], record.Clock(), time.perf_counter()
    with record.progress() as bar, tempfile.TemporaryDirectory() as folder:
        task = bar.add_task("files", total=files, note="")
        for n in range(files):
            found.append(attempt(seed + n, Path(folder)))
            bar.update(task, advance=1)
    clock.run_seconds = time.perf_counter() - start
    wrong = [each for each in found if each.wrong]
    metrics = {
        "files": files,
        "violations": len(wrong),
        "first_violations": [each._asdict() for each in wrong[:20]],
        "outcomes": {
            format: dict(Counter(each.outcome for each in found if each.format == format)) for format in FORMATS
        },
        "damages": {
            damage: dict(Counter(each.outcome for each in found if each.damage == damage))
            for damage in sorted({each.damage for each in found})
        },
    }
    record.console.print_json(
        data={key: metrics[key] for key in ("files", "violations", "outcomes", "first_violations")}
    )
    written = record.write(out, arguments=arguments, metrics=metrics, figures={}, clock=clock, dtype="float64")
    record.require(not wrong, f"{len(wrong)} files were not refused, or read wrongly; metrics.json says which")
    return written


if __name__ == "__main__":
    record.command(main)
