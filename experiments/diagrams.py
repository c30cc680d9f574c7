"""Drawings of models and solutions: a grid with its values and policy, a diagram of states and transitions, gaps.

Each draws into the axes that it is given, so that figures of any make-up can be put together from them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.path import Path

import dp
from dp.problems.gridworld import DOWN, RIGHT

WALL, INK, FAINT = "#30343f", "#1b1b1e", "#8d99ae"
RADIUS = 0.38
COLOURS = ("#3066be", "#d1495b", "#c9861a", "#00798c", "#7b5ea7", "#66a182")
DARK = 0.6  # up to this part of the colours, what is written on them is white
TO_PRINT = 60  # values are printed into the cells of grids that have no more


def draw_grid(
    ax: Axes,
    solution: dp.Solution,
    shape: tuple[int, int],
    *,
    walls: Collection[tuple[int, int]] = (),
    terminals: Collection[tuple[int, int]] = (),
    cmap: str = "viridis",
) -> None:
    """Draw the values of a gridworld as colours, and all of its best actions as arrows.

    shape: (height, width). walls are dark and terminals are stars. Small grids have their values printed.
    Actions are up, down, left, right; those within the certificate of the best have an arrow.
    """
    height, width = shape
    hidden = np.zeros(shape, bool)
    for cell in (*walls, *terminals):
        hidden[cell] = True
    v = np.ma.array(np.asarray(solution.v).reshape(shape), mask=hidden)
    image = ax.imshow(v, cmap=cmap)
    ax.figure.colorbar(image, ax=ax, fraction=0.046 * height / width, pad=0.02)
    for row, column in walls:
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=WALL, lw=0))
    for row, column in terminals:
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="white", lw=0))
        ax.plot(column, row, "*", ms=min(18, 130 / max(shape)), color=COLOURS[2], mec=INK, mew=0.6)
    q = np.asarray(solution.q)
    slack = np.asarray(solution.upper - solution.lower).max() + 1e-9
    printed = height * width <= TO_PRINT
    low, high = image.get_clim()
    best = (q >= q.max(1, keepdims=True) - slack).reshape(height, width, 4)
    for r, c, a in np.argwhere(best & ~hidden[:, :, None]):
        colour = "white" if v[r, c] < low + DARK * (high - low) else INK
        # A lone arrow goes through the middle; several begin there; where a number is, they begin beside it.
        begin = 0.3 if printed else 0.0 if best[r, c].sum() > 1 else -0.34
        _arrow(ax, r, c, a, colour, begin, 0.47 if printed else 0.36)
    if printed:
        for r, c in np.argwhere(~hidden):
            colour = "white" if v[r, c] < low + DARK * (high - low) else INK
            ax.text(c, r, f"{v[r, c]:.1f}", ha="center", va="center", size=6, color=colour)
    ax.set_xticks(np.arange(width + 1) - 0.5, [])
    ax.set_yticks(np.arange(height + 1) - 0.5, [])
    ax.grid(color="white", lw=0.4)
    ax.tick_params(length=0)


def _arrow(ax: Axes, row: int, column: int, action: int, colour: str, begin: float, end: float) -> None:
    """Draw an arrow from one distance from the middle of a cell to another."""
    middle, direction = np.array([column, row]), np.array([RIGHT[action], DOWN[action]])
    size = 5 if begin > 0 else 8
    style = {"arrowstyle": "-|>", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": size}
    (x, y), (to_x, to_y) = middle + begin * direction, middle + end * direction
    ax.annotate("", (to_x, to_y), (x, y), arrowprops=style)


def draw_diagram(
    ax: Axes,
    mdp: dp.MDP,
    *,
    states: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    solution: dp.Solution | None = None,
) -> None:
    """Draw a small MDP: states are circles, choices boxes with their reward, transitions arrows with a probability.

    With a solution the choices of its policy are filled, and under the name of each state stands its value. Terminal
    states have a double line. States stand on a circle, so it is for some six of them; with more, arrows cross.
    """
    table = dp.tabulate(mdp)
    S = mdp.size
    name = [str(s) for s in range(S)] if states is None else list(states)
    label = [str(a) for a in range(int(table.actions.max()) + 1)] if actions is None else list(actions)
    turn = np.pi if S == 2 else np.pi / 2
    angle = turn - 2 * np.pi * np.arange(S) / S
    place = (2.3 if S > 2 else 1.9) * np.stack([np.cos(angle), np.sin(angle)], axis=1) * (S > 1)
    for s in range(S):
        own = range(table.choices[s], table.choices[s + 1])
        over = table.indptr[own.start] == table.indptr[own.stop] and not table.rewards[own.start : own.stop].any()
        for c, direction in zip(own, _directions(table, own, s, place), strict=True):
            if not over:
                _draw_choice(ax, table, c, place, s, direction, label, chosen=_chosen(solution, table, c, s))
        for radius in (RADIUS, 0.84 * RADIUS)[: 1 + over]:
            ax.add_patch(Circle(place[s], radius, fc="white", ec=INK, lw=1.6, zorder=4))
        value = "" if solution is None else f"\n{float(solution.v[s]):.4g}"
        ax.text(place[s, 0], place[s, 1], name[s] + value, ha="center", va="center", size=9, zorder=5)
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.margins(0.1)
    ax.axis("off")


def _chosen(solution: dp.Solution | None, table: dp.Table, c: int, s: int) -> bool:
    return solution is not None and int(solution.policy[s]) == table.actions[c]


def _directions(table: dp.Table, own: range, s: int, place: np.ndarray) -> np.ndarray:
    """Return for each choice of a state the angle at which it stands, none too near to another.

    It stands on the way to where it leads, to the right of it: what comes back along the same way is on the other side.
    """
    away = place[s] - place.mean(0)
    wanted = []
    for c in own:
        entries = slice(table.indptr[c], table.indptr[c + 1])
        to, p = table.indices[entries], table.data[entries]
        towards = (p[:, None] * np.where((to == s)[:, None], away / 4, place[to] - place[s])).sum(0)
        towards = towards if towards.any() else np.array([0.0, 1.0])
        wanted.append(np.arctan2(towards[1], towards[0]) - (0.45 if (to != s).any() else 0.0))
    return _spread(np.array(wanted))


def _draw_choice(ax, table, c, place, s, direction, label, *, chosen) -> None:
    """Draw the box of a choice, the line that leads to it from its state, and the arrows from it."""
    colour = COLOURS[int(table.actions[c]) % len(COLOURS)]
    box = place[s] + 1.25 * np.array([np.cos(direction), np.sin(direction)])
    ax.plot(*zip(place[s], box, strict=True), color=colour, lw=2.2 if chosen else 1.2, zorder=2)
    # Rounding makes no reward of 0.
    reward = round(float(table.rewards[c]), 9) + 0.0
    ax.text(
        *box,
        f"{label[table.actions[c]]}  {reward:+.3g}" if reward else f"{label[table.actions[c]]}  0",
        ha="center",
        va="center",
        size=8,
        color="white" if chosen else colour,
        bbox={"boxstyle": "round,pad=0.35", "fc": colour if chosen else "white", "ec": colour, "lw": 1.3},
        zorder=6,
    )
    for k in range(table.indptr[c], table.indptr[c + 1]):
        t, p = table.indices[k], table.data[k]
        text = "" if p > 1 - 1e-9 else f"{p:.3g}"
        _draw_transition(ax, box, place[t], 0.75 if t == s else 0.2, colour, text, width=2.0 if chosen else 1.1)


def _draw_transition(ax, begin, end, bend, colour, text, *, width) -> None:
    """Draw an arrow, bent to its right, to the edge of a circle, and its probability beside the middle of it."""
    control = (begin + end) / 2 + bend * np.array([end[1] - begin[1], begin[0] - end[0]])
    tip = end - RADIUS * (end - control) / np.linalg.norm(end - control)
    path = Path([begin, control, tip], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    arrow = {"arrowstyle": "-|>", "mutation_scale": 10, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(path=path, color=colour, lw=width, fill=True, zorder=3, **arrow))
    if text:
        # Past the middle, where the box is out of the way.
        middle = 0.2 * begin + 0.48 * control + 0.32 * tip
        background = {"fc": "white", "ec": "none", "pad": 0.8}
        ax.text(*middle, text, ha="center", va="center", size=7.5, color=INK, bbox=background, zorder=5)


def _spread(angles: np.ndarray, apart: float = np.pi / 2.6) -> np.ndarray:
    """Move angles away from each other until all are so far apart, or as far as there is room."""
    angles = angles + 1e-3 * np.arange(angles.size)
    apart = min(apart, 1.9 * np.pi / max(angles.size, 1))
    for _ in range(200):
        off = (angles[:, None] - angles + np.pi) % (2 * np.pi) - np.pi
        lacking = np.where((np.abs(off) < apart) & (off != 0), apart - np.abs(off), 0) * np.sign(off)
        if not lacking.any():
            break
        angles = angles + lacking.sum(1) / 2
    return angles


def gaps(solver: Callable[..., dp.Solution], mdp: dp.MDP, iterations: int) -> np.ndarray:
    """Return the certified gap, max(upper - lower), of any solver after 1, 2, ... iterations; NaN once it is done.

    solver: takes an MDP and max_iters. It is run once for each number of iterations, all in one compilation.
    """

    @jax.jit
    def run(mdp: dp.MDP) -> tuple[jax.Array, jax.Array]:
        def after(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            solution = solver(mdp, max_iters=k)
            return jnp.max(solution.upper - solution.lower), solution.iterations

        return jax.lax.map(after, jnp.arange(1, iterations + 1))

    gap, made = map(np.asarray, run(mdp))
    return np.where(made < np.arange(1, iterations + 1), np.nan, gap)


def draw_convergence(ax: Axes, curves: Mapping[str, np.ndarray], *, tol: float) -> None:
    """Draw the gap of each solver after 1, 2, ... iterations, and the tolerance that ends them."""
    for (name, gap), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        k = np.arange(1, len(gap) + 1)
        done = np.isfinite(gap)
        ax.semilogy(k[done], gap[done], color=colour, lw=1.6, label=name, marker="o", ms=3 if done.sum() < 40 else 0)
        ax.plot(k[done][-1], gap[done][-1], "o", ms=6, color=colour)
    ax.axhline(tol, color=FAINT, ls="--", lw=1)
    ax.text(0.22, tol, "tolerance", transform=ax.get_yaxis_transform(), va="bottom", size=8, color=FAINT)
    ax.set(xlabel="iterations", ylabel="max(upper - lower)")
    ax.label_outer()
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
