"""How each library is called that is not written in JAX, and the list of all.

Only the chosen library is imported: an interpreter that has that one, NumPy and SciPy is enough. All are asked for the
accuracy tol in the sup norm, with their own settings for it and with nothing else set.
"""

from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse as sp

from experiments.bench_call import EVER, Call, Prepare, Run, timed
from experiments.bench_jax import dp, dp_batch, dp_sharded, jaxdp, mdpax
from experiments.instances import Tables, pairs


def quantecon(method: str) -> Prepare:
    """Return QuantEcon's DiscreteDP; its answers are within epsilon / 2."""

    def prepare(tables: Tables, tol: float) -> Run:
        DiscreteDP = import_module("quantecon.markov").DiscreteDP

        S, A = tables.R.shape
        if tables.P is not None:
            model = DiscreteDP(tables.R, tables.P, tables.gamma)
        else:
            owner, action = np.repeat(np.arange(S), A), np.tile(np.arange(A), S)
            # It asks for the old kind of matrix by name.
            model = DiscreteDP(tables.R.ravel(), sp.csr_matrix(pairs(tables)), tables.gamma, owner, action)

        def run() -> Call:
            seconds, found = timed(lambda: model.solve(method, epsilon=2 * tol, max_iter=EVER))
            return Call(seconds, found.v, found.num_iter, {})

        return run

    return prepare


def mdpsolver(algorithm: str) -> Prepare:
    """Return mdpsolver's model, with as many threads as there are cores."""

    def prepare(tables: Tables, tol: float) -> Run:
        library = import_module("mdpsolver")

        def build() -> Any:
            lists: dict[str, Any] = {"discount": tables.gamma, "rewards": tables.R.tolist()}
            if tables.P is not None:
                lists |= {"tranMatWithZeros": tables.P.tolist()}
            else:
                assert tables.prob is not None and tables.state is not None
                lists |= {"tranMatProbs": tables.prob.tolist(), "tranMatColumns": tables.state.tolist()}
            model = library.model()
            model.mdp(**lists)
            return model

        unused = [build()]

        def run() -> Call:
            # A model that has been solved goes on from its answer.
            model = unused.pop() if unused else build()
            seconds, _ = timed(lambda: model.solve(algorithm=algorithm, tolerance=tol, makeFinalCheck=False))
            return Call(seconds, np.array(model.getValueVector()), None, {})

        return run

    return prepare


def mdptoolbox(tables: Tables, tol: float) -> Run:
    """Return pymdptoolbox's policy iteration, a new one for every call: it goes on from its last answer."""
    library = import_module("mdptoolbox.mdp")

    S, A = tables.R.shape
    if tables.P is not None:
        P: Any = np.ascontiguousarray(tables.P.transpose(1, 0, 2))
    else:
        matrix = sp.csr_matrix(pairs(tables))
        P = [matrix[np.arange(S) * A + a] for a in range(A)]

    def run() -> Call:
        solver = library.PolicyIteration(P, tables.R, tables.gamma, max_iter=EVER)
        seconds, _ = timed(solver.run)
        return Call(seconds, np.array(solver.V), solver.iter, {})

    return run


def storm(tables: Tables, tol: float) -> Run:
    """Return Storm's checker of discounted rewards, to which its methods make no difference; it wants rewards >= 0."""
    stormpy = import_module("stormpy")
    environments, models = import_module("stormpy.environments"), import_module("stormpy.models")

    S, A = tables.R.shape
    matrix, shift = pairs(tables), tables.R.min()
    row = np.repeat(np.arange(S * A), np.diff(matrix.indptr))
    builder = import_module("stormpy.datastructures").SparseMatrixBuilder[float](
        rows=S * A, columns=S, entries=matrix.nnz, has_custom_row_grouping=True, row_groups=S
    )
    values = row.tolist(), matrix.indices.tolist(), matrix.data.tolist(), list(range(0, S * A, A))
    builder.add_next_values(*values)
    label = models.StateLabeling(S)
    label.add_label("init")
    label.add_label_to_state("init", 0)
    rewards = models.SparseRewardModel[float](optional_state_action_reward_vector=(tables.R - shift).ravel().tolist())
    parts = models.SparseModelComponents[float](
        transition_matrix=builder.build(), state_labeling=label, reward_models={"r": rewards}
    )
    model = models.SparseMdp[float](parts)
    environment = environments.Environment()
    settings = environment.solver().min_max()
    settings.precision, settings.relative_termination_criterion = stormpy.Rational(tol), False
    query = stormpy.parse_properties(f'R{{"r"}}max=? [Cdiscount={tables.gamma!r}]')[0]

    def run() -> Call:
        seconds, found = timed(lambda: stormpy.model_checking(model, query, environment=environment))
        return Call(seconds, np.array(found.get_value_vector()) + shift / (1 - tables.gamma), None, {})

    return run


OURS: dict[str, Prepare] = {"dp": dp, "dp x 10,000": dp_batch, "dp sharded": dp_sharded}
PEERS: dict[str, Prepare] = {
    "quantecon MPI": quantecon("modified_policy_iteration"),
    "quantecon PI": quantecon("policy_iteration"),
    "mdpsolver MPI": mdpsolver("mpi"),
    "mdpsolver VI": mdpsolver("vi"),
    "Storm": storm,
    "pymdptoolbox PI": mdptoolbox,
    "jaxdp Anderson": jaxdp("SafeAndersonValueIteration"),
    "jaxdp PI": jaxdp("PolicyIteration"),
    "mdpax VI": mdpax,
}
CONTENDERS = OURS | PEERS
