"""What the experiments with dp say, in sentences, from their metrics: the first is for the terminal."""


def bellman_answers(m: dict) -> list[str]:
    """Answer Section 2."""
    worst = max(m["largest_errors"].values())
    return [
        f"2(a)-(c) every equation holds to {worst:.0e}, against sums written out over p(s', r|s, a), for all random "
        f"policies.",
        "For each equation the largest difference of its two sides, and for the inequality the largest violation:",
    ]


def space_answers(m: dict) -> list[str]:
    """Answer 3(a) and 3(b)."""
    holds, total = m["claims_that_hold"], len(m["claims"])
    pi, vi = m["certificates"].values()
    first = m["first_proof"]["policy iteration, one sweep"]
    return [
        f"3(a) policy iteration: π₂ is optimal, proven at k = {first}. 3(b) value iteration: not converged, gap "
        f"{vi[2]['gap']:.3g}. Of the exercise's {total} numbers {holds['float32']} are reproduced exactly in float32, "
        f"{holds['float64']} in float64.",
        f"3(a) Policy iteration from 'always conserve': v₁ = {pi[1]['v']}, v₂ = {pi[2]['v']}, and π₂ = π₁ = explore at "
        f"F, conserve at L. It is optimal, and the certificate proves it at k = {first}: "
        f"v_*(F) lies in [{pi[first]['lower'][0]:g}, {pi[first]['upper'][0]:g}]. "
        "The repeated policy alone proves nothing.",
        f"3(b) Value iteration: v₁ = {vi[1]['v']}, v₂ = {vi[2]['v']}. The limit is v_* = [3.5, 2.5, 0].",
    ]


def convergence_answers(m: dict) -> list[str]:
    """Answer 3(c)."""
    sweeps = m["initial_values"]["value_iteration_sweeps"]
    corridor = next(rows for name, rows in m["in_place"]["sweeps_to_1e-6"].items() if name.startswith("corridor"))
    seconds = {name: column[-1] for name, column in m["enumeration"]["seconds"].items()}
    orders = next(rows for name, rows in m["order"]["backups_per_state_to_1e-6"].items() if name.startswith("corridor"))
    growth = m["growth"]["|S|"]
    return [
        f"3(c) order matters: in a corridor {reached(corridor['in place, last to first'])} sweeps in place, along the "
        f"flow of value, do what takes {reached(corridor['out of place'])} out of place.",
        "Initial values: value iteration needs, to a certified 1e-6, "
        + "; ".join(f"{n} sweeps from {name}" for name, n in sweeps.items())
        + ". Where no episode ends, a constant error costs nothing: the certificate removes it.",
        "Order, in backups per state to 1e-6: " + ", ".join(f"{name} {reached(n)}" for name, n in orders.items()) + ".",
        "Growth with |S|, to a certified 1e-6: the iterations hardly change ("
        + "; ".join(f"{name} {min(row['iterations'])} to {max(row['iterations'])}" for name, row in growth.items())
        + "), the cost of each one does.",
        f"Enumeration of all {m['enumeration']['policies'][-1]} policies of {m['enumeration']['states'][-1]} states: "
        f"{1e3 * seconds['all |A|^|S| policies']:.3g} ms, value iteration {1e3 * seconds['value iteration']:.3g} ms, "
        "with the same answer.",
    ]


def reached(sweeps: int | None) -> str:
    """Return a number of sweeps as text, or that there were too few of them."""
    return "more than were run" if sweeps is None else str(sweeps)
