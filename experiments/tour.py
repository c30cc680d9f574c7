"""The tour: every experiment at small size, one table on the terminal, one page with questions, answers and figures.

python -m experiments.tour        (or: make demo)
"""

import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments import page, record
from experiments.chapters import CHAPTERS, Chapter


def main(*, seed: int = 0, out: Path = Path("results/tour")) -> dict:
    """Run every experiment at small size and write one page that answers the exercise.

    Args:
        seed: of all experiments.
        out: folder for metrics.json and index.html, which embeds all figures.
    """
    arguments = locals()
    record.require_run(seed, out)
    clock, sections, metrics = record.Clock(), [], {}
    table = Table("question", "answer", "seconds", title="The exercise, computed", show_lines=True)
    for chapter in CHAPTERS:
        name = chapter.run.__module__.rsplit(".", 1)[-1]
        record.console.print(f"[bold]{escape(chapter.question)}[/]  {name} ...")
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = run_quietly(chapter, seed, Path(folder) / name)
            figures = [page.figure(Path(folder) / name / file, caption) for file, caption in chapter.figures.items()]
        seconds = time.perf_counter() - start
        answers = chapter.answers(found["metrics"])
        clock.compile_seconds += found["seconds"]["compile"]
        clock.run_seconds += found["seconds"]["run"]
        metrics[name] = {"answers": answers, "arguments": found["arguments"], "seconds": seconds}
        table.add_row(chapter.question, escape(answers[0]), f"{seconds:.0f}")
        words = [".venv/bin/python -m", f"experiments.{name}", options(chapter.arguments | {"seed": seed})]
        sections.append(
            page.section(
                f"Question {chapter.question}",
                page.question(chapter.asked),
                *map(page.paragraph, answers),
                *numbers(name, found["metrics"]),
                *figures,
                page.command("Here in a small setting:" if chapter.arguments else "To repeat:", " ".join(words)),
            )
        )
    document = page.page(
        "Score matching and dynamic programming: the exercise, computed",
        page.paragraph(
            "Every number and figure on this page was computed by the run that wrote it. Each section names the "
            "command that repeats it; without its options it runs at full size."
        ),
        *sections,
        f"<footer>commit {record.git_commit() or 'unknown'}, seed {seed}</footer>",
    )
    record.console.print(table)
    return record.write(
        out,
        arguments=arguments,
        metrics=metrics,
        figures={},
        clock=clock,
        dtype="float32 and float64",
        pages={"index.html": document},
    )


def run_quietly(chapter: Chapter, seed: int, out: Path) -> dict:
    """Run one experiment without its own tables."""
    record.console.quiet = True
    try:
        return chapter.run(**chapter.arguments, seed=seed, out=out)
    finally:
        record.console.quiet = False


def options(arguments: dict[str, Any]) -> str:
    """Write keyword arguments as command-line options."""
    words = ((name, value if isinstance(value, tuple) else (value,)) for name, value in arguments.items())
    return " ".join(f"--{name.replace('_', '-')} {' '.join(shlex.quote(str(v)) for v in vs)}" for name, vs in words)


def numbers(name: str, metrics: dict) -> list[str]:
    """Return the tables of an experiment that has some."""
    if name == "space_exploration":
        claims = [
            (c["question"], c["quantity"], str(c["stated"]), str(c["computed"]) + ("" if c["holds"] else ", differs"))
            for c in metrics["claims"]
        ]
        header = ("k", "v_k(F)", "v_k(L)", "v_*(F) in", "v_*(L) in", "policy")
        proofs = []
        for method, rows in metrics["certificates"].items():
            lines = [
                (
                    str(c["k"]),
                    *(f"{c['v'][s]:g}" for s in (0, 1)),
                    *(f"[{c['lower'][s]:.6g}, {c['upper'][s]:.6g}]" for s in (0, 1)),
                    "proven optimal" if c["proven"] else "could be wrong",
                )
                for c in rows
            ]
            proofs += [page.paragraph(f"What the certificate says, {method}:"), page.table(header, lines)]
        return [page.table(("question", "what", "exercise", "computed"), claims), *proofs]
    if name == "bellman_equations":
        return [
            page.table(
                ("equation", "largest difference"), ((e, f"{x:.1e}") for e, x in metrics["largest_errors"].items())
            )
        ]
    if name == "images":
        rows = metrics["table"]
        columns = list(next(iter(rows.values())))
        cells = [(source, *(f"{row[c]['mean']:.3g}" for c in columns)) for source, row in rows.items()]
        return [page.table(("images from", *(c.replace("_", " ") for c in columns)), cells)]
    return []


if __name__ == "__main__":
    record.command(main)
