"""Models of any form in NumPy's npz, without pickle: every array of the model as it is, and the names as JSON.

The archive is not compressed, so that what a file asks for is never more than what is in it: a reader takes no
compressed member, reads of an array no more than its shape and dtype, and compares both with the bytes that are there.
"""

import json
import re
import zipfile
from typing import Any

import jax
import numpy as np

from dp.dense import make_mdp
from dp.formats.model import Model, as_model
from dp.formats.text import Source, size
from dp.mdp import MDP
from dp.sparse import from_choices, from_successors
from dp.table import Table, tabulate
from dp.transitions import is_dense

FORMAT = "dp model 1"
# The header of a .npy file, version 1, as NumPy writes it for the dtypes that are used here: dtype and shape.
HEADER = re.compile(
    rb"\{'descr': '(<f8|<f4|<i8|<i4|\|b1|\|u1)', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,15},? ?){0,3})\), \} *\n"
)


def write_npz(path: Source, model: Model | MDP) -> None:
    """Write a model of any form to an npz file: `read_npz` returns the same model, names, labels, rewards and gamma.

    A dense model stays dense, one with A actions everywhere stays that, and so does a ragged one; of a matrix-free
    model its transitions are written down.
    """
    bare = isinstance(model, MDP)
    model = as_model(model)
    mdp = model.mdp
    arrays: dict[str, Any] = {"R": mdp.R, "gamma": np.asarray(mdp.gamma, mdp.R.dtype)}
    if mdp.mask is not None:
        arrays["mask"] = mdp.mask
    if is_dense(mdp.P):
        form, arrays["P"] = "dense", mdp.P
    elif mdp.choices is None:
        form = "successors"
        arrays |= dict(zip(("state", "prob"), _padded(mdp, tabulate(mdp)), strict=True))
    else:
        form, table = "ragged", tabulate(mdp)
        arrays |= {name: getattr(table, name) for name in ("data", "indices", "indptr", "choices")}
    about = {"format": FORMAT, "form": form, "bare": bare, "labels": [], "rewards": [], "states": None, "actions": None}
    if not bare:
        about |= {"labels": list(model.labels), "rewards": list(model.rewards)}
        about |= {"states": model.states, "actions": model.actions}
        arrays |= {"initial": model.initial}
        arrays |= {f"label{n}": members for n, members in enumerate(model.labels.values())}
        arrays |= {f"reward{n}": np.asarray(r, mdp.R.dtype) for n, r in enumerate(model.rewards.values())}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    host = {name: np.ascontiguousarray(x) if np.ndim(x) else np.asarray(x) for name, x in arrays.items()}
    with open(path, "wb") as file:  # np.savez would add an ending to a path
        np.savez(file, allow_pickle=False, **host)


def _padded(mdp: MDP, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return successors and probabilities [S, A, K] of a model whose states all have A actions."""
    S, A = mdp.R.shape
    counts = np.diff(table.indptr)
    K = max(1, int(counts.max(initial=0)))
    row = table.owner * A + table.actions
    slot = np.arange(len(table.data)) - np.repeat(table.indptr[:-1], counts)
    state, prob = np.zeros((S * A, K), np.int32), np.zeros((S * A, K), table.data.dtype)
    entry = np.repeat(row, counts)
    state[entry, slot], prob[entry, slot] = table.indices, table.data
    return state.reshape(S, A, K), prob.reshape(S, A, K)


def read_npz(path: Source) -> Model | MDP:
    """Read what `write_npz` wrote: a Model, or of a bare MDP the MDP, in the dtype it had where JAX has that.

    Raises ValueError, beginning with the path, for anything else: another archive, one that was changed or cut off,
    arrays that do not fit each other, and what `make_mdp`, `from_successors` and `from_choices` refuse. Missing mass is
    accepted. No more is held in memory than a small multiple of the file.
    """
    try:
        arrays = _arrays(path)
        return _assembled(arrays, _about(arrays))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _arrays(path: Source) -> dict[str, np.ndarray]:
    """Return the arrays of the archive by name."""
    whole = size(path)
    # zipfile raises all of these for archives that are none.
    damage = zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, OverflowError, KeyError
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(m.file_size for m in members) > whole or any(m.compress_type for m in members):
                    raise ValueError("a member is compressed, or larger than the file: write_npz does neither")
                names = [m.filename for m in members]
                if len(set(names)) < len(names) or any(not name.endswith(".npy") for name in names):
                    raise ValueError(f"these members are not of write_npz: {names[:4]}")
                return {m.filename[:-4]: _array(archive.read(m), m.filename) for m in members}
        except damage as error:
            raise ValueError(f"not a whole npz file ({' '.join(str(error).split())})") from None


def _array(data: bytes, name: str) -> np.ndarray:
    length = int.from_bytes(data[8:10], "little")
    match = HEADER.fullmatch(data[10 : 10 + length]) if data[:8] == b"\x93NUMPY\x01\x00" else None
    if match is None:
        raise ValueError(f"{name} is not an array of floats, integers or booleans as write_npz writes them")
    dtype = np.dtype(match[1].decode())
    shape = tuple(int(x) for x in match[2].replace(b",", b" ").split())
    body = data[10 + length :]
    needed = dtype.itemsize
    for n in shape:
        needed *= n
    if needed != len(body):
        raise ValueError(f"{name} says shape {list(shape)} of {dtype}, {needed} bytes, but has {len(body)}")
    if dtype == np.bool_ and max(body, default=0) > 1:
        raise ValueError(f"{name} holds booleans that are neither 0 nor 1")
    return np.frombuffer(body, dtype).reshape(shape)


def _about(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what the file says about its arrays, checked."""
    try:
        about = json.loads(arrays.pop("about").tobytes())
    except (KeyError, ValueError, RecursionError):
        raise ValueError("this is not a file of write_npz: it has no readable member about.npy") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"this file is not of the format {FORMAT!r}")

    def strings(x: Any) -> bool:
        return isinstance(x, list) and all(isinstance(name, str) for name in x)

    lists = all(strings(about.get(key)) and len(set(about[key])) == len(about[key]) for key in ("labels", "rewards"))
    named = all(about.get(key) is None or strings(about[key]) for key in ("states", "actions"))
    keys = {"format", "form", "bare", "labels", "rewards", "states", "actions"}
    if not (lists and named) or set(about) != keys or not isinstance(about["bare"], bool):
        raise ValueError("about.npy does not say the names of labels, rewards, states and actions")
    return about


def _assembled(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Model | MDP:
    forms = {"dense": ("P",), "successors": ("state", "prob"), "ragged": ("data", "indices", "indptr", "choices")}
    form = about["form"]
    if not isinstance(form, str) or form not in forms:
        raise ValueError(f"the form {form!r} is none of {', '.join(forms)}")
    extra = [] if about["bare"] else ["initial"]
    extra += [f"label{n}" for n in range(len(about["labels"]))] + [f"reward{n}" for n in range(len(about["rewards"]))]
    expected = {"R", "gamma", *forms[form], *extra}
    if set(arrays) - {"mask"} != expected:
        raise ValueError(f"the arrays should be {sorted(expected)}, but are {sorted(arrays)}")
    P, R, gamma, mask = [arrays[name] for name in forms[form]], arrays["R"], arrays["gamma"], arrays.get("mask")
    floats = [*(P if form == "dense" else P[1:] if form == "successors" else P[:1]), R, gamma]
    if len({x.dtype for x in floats}) > 1 or floats[0].dtype.kind != "f":
        raise ValueError(f"probabilities, rewards and gamma are of dtypes {[str(x.dtype) for x in floats]}, not of one")
    if form == "dense":
        mdp = make_mdp(P[0], R, gamma, mask=mask, substochastic=True)
    elif form == "successors":
        mdp = from_successors(P[0], P[1], R, gamma, mask=mask, substochastic=True)
    elif mask is not None:
        raise ValueError("a ragged model has no mask")
    else:
        data, indices, indptr, choices = P
        mdp = from_choices(data, indices, indptr, choices, R, gamma, substochastic=True)
    if mdp.R.shape != R.shape:
        raise ValueError(f"R should have shape {list(mdp.R.shape)}, but has {list(R.shape)}")
    return mdp if about["bare"] else _named(mdp, arrays, about)


def _named(mdp: MDP, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Model:
    S, C = mdp.size, mdp.R.size if mdp.mask is None else int(np.asarray(mdp.mask).sum())
    labels = {name: arrays[f"label{n}"] for n, name in enumerate(about["labels"])}
    rewards = {name: arrays[f"reward{n}"] for n, name in enumerate(about["rewards"])}
    for name, x in {"initial": arrays["initial"], **labels}.items():
        if x.shape != (S,) or x.dtype != np.bool_:
            raise ValueError(f"{name!r} should be booleans of shape {[S]}, but is {x.dtype} of shape {list(x.shape)}")
    for name, r in rewards.items():
        if r.shape != mdp.R.shape or r.dtype != arrays["R"].dtype or not np.isfinite(r).all():
            raise ValueError(f"the rewards {name!r} should be finite numbers of the shape of R, {list(mdp.R.shape)}")
    for key, number in (("states", S), ("actions", C)):
        if about[key] is not None and len(about[key]) != number:
            raise ValueError(f"there are {len(about[key])} names of {key}, and {number} {key}")
    kind = jax.dtypes.canonicalize_dtype(arrays["R"].dtype)
    states, actions = (None if about[key] is None else tuple(about[key]) for key in ("states", "actions"))
    held = {name: r.astype(kind) for name, r in rewards.items()}
    return Model(mdp, arrays["initial"], labels, held, states, actions)
