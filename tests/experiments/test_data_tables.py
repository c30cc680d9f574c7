"""Tables: how they are split and standardised, and what is said of a file that is no table."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_wine

from experiments import table_data
from experiments.table_data import load_table

ROWS = np.array([[1.0, 10.0], [2.0, -3.5], [4.0, 0.25], [8.0, 1e3], [16.0, 7.0], [32.0, 6.0]])


def write_csv(path, rows=ROWS, header="a,b\n"):
    path.write_text(header + "".join(",".join(map(repr, map(float, row))) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("name", "source"), [("wine", load_wine), ("breast_cancer", load_breast_cancer)])
def test_the_tables_of_scikit_learn_in_two_halves_without_a_common_row(name, source):
    split = load_table(name)
    everything = source()
    n, d = everything.data.shape
    assert split.name == name and split.columns == tuple(everything.feature_names)
    assert split.heldout.shape == (int(np.ceil(0.2 * n)), d) and split.train.shape == (n - len(split.heldout), d)
    # All rows of these tables differ, so that together they are the table once.
    rows = split.units(np.concatenate([split.train, split.heldout]))
    order = [np.lexsort(x.T.round(9)) for x in (rows, everything.data)]
    assert_allclose(rows[order[0]], everything.data[order[1]], rtol=1e-12, atol=1e-12)
    assert_allclose(split.train.mean(axis=0), 0, atol=1e-12)
    assert_allclose(split.train.std(axis=0), 1, rtol=1e-12)


def test_the_seed_alone_chooses_the_halves_and_classes_are_shared_out():
    # The global state, on which nothing may depend.
    np.random.seed(7)  # noqa: NPY002
    first, again, other = load_table("wine", seed=4), load_table("wine", seed=4), load_table("wine", seed=5)
    assert_array_equal(first.heldout, again.heldout)
    assert first.train.shape == other.train.shape and np.any(first.mean != other.mean)
    wine = load_wine()
    label = {tuple(row.round(9)): y for row, y in zip(wine.data, wine.target, strict=True)}
    held = [label[tuple(row.round(9))] for row in first.units(first.heldout)]
    assert_allclose(np.bincount(held) / len(held), np.bincount(wine.target) / len(wine.target), atol=1 / len(held))


def test_standardisation_sees_the_training_rows_only(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, train=ROWS[:4], heldout=ROWS[4:])
    first = load_table(path)
    np.savez(path, train=ROWS[:4], heldout=-1e6 * ROWS[4:])
    second = load_table(path)
    assert_array_equal(first.mean, ROWS[:4].mean(axis=0))
    for field in ("train", "mean", "std"):
        assert_array_equal(getattr(first, field), getattr(second, field))
    assert_allclose(second.units(second.heldout), -1e6 * ROWS[4:], rtol=1e-12)


def test_a_logdensity_in_the_units_of_the_columns():
    split = load_table("wine")
    covariance = np.cov(split.train.T)
    x = multivariate_normal(np.zeros(13), covariance).logpdf(split.heldout)
    scale = np.diag(split.std)
    direct = multivariate_normal(split.mean, scale @ covariance @ scale, allow_singular=True)
    assert_allclose(x + split.log_jacobian, direct.logpdf(split.units(split.heldout)), rtol=1e-9)


def test_a_csv_with_and_without_a_header_and_an_npz_are_the_same_table(tmp_path):
    named = load_table(write_csv(tmp_path / "a.csv"), heldout=0.34)
    bare = load_table(str(write_csv(tmp_path / "b.csv", header="")), heldout=0.34)
    np.savez(tmp_path / "c.npz", x=ROWS, y=np.arange(3))
    np.savez_compressed(tmp_path / "d.npz", x=np.asfortranarray(ROWS))
    assert named.columns == ("a", "b") and bare.columns == ("column 1", "column 2")
    assert [named.name, bare.name] == ["a", "b"]
    assert len(named.heldout) == 3
    arrays = [load_table(tmp_path / f"{name}.npz", heldout=0.34) for name in "cd"]
    for other in (bare, *arrays):
        assert_array_equal(other.train, named.train)
        assert_array_equal(other.heldout, named.heldout)
    rows = named.units(np.concatenate([named.train, named.heldout]))
    assert_allclose(sorted(rows.tolist()), ROWS, rtol=1e-12)


@pytest.mark.parametrize("kind", ["<i2", "|u1", ">f4", "<f2", ">i8"])
def test_numbers_of_other_kinds_are_the_same_numbers(tmp_path, kind):
    rows = np.arange(12).reshape(6, 2) ** 2
    with open(tmp_path / "t.npz", "wb") as file:
        np.savez(file, train=rows.astype(kind), heldout=rows[::-1].astype(kind))
    split = load_table(tmp_path / "t.npz")
    assert split.train.dtype == np.float64
    assert_allclose(split.units(split.train), rows, atol=1e-12)
    assert_allclose(split.units(split.heldout), rows[::-1], atol=1e-12)


def test_the_csv_of_a_spreadsheet(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_bytes(b'\xef\xbb\xbf"length, in cm",b\r\n 1,"2.5"\r\n+3e0,.5\r\n-1.,7\r\n')
    split = load_table(path, heldout=0.01)
    assert split.columns == ("length, in cm", "b")
    rows = split.units(np.concatenate([split.train, split.heldout]))
    assert_allclose(sorted(rows.tolist()), [[-1, 7], [1, 2.5], [3, 0.5]], atol=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"a,b\n", "line 1: there is no row below the header"),
        (b"a,b\n1,2\n3\n", "line 3: 1 cell, and 2 in line 1"),
        (b"a,b\n1,2\n3,4,5\n", "line 3: 3 cells, and 2 in line 1"),
        (b"a,b\n1,2\n\n3,4\n", "line 3: the line is empty"),
        (b"a,b\n1,2\n3,\n", "line 3, column 2 ('b'): the cell is empty"),
        (b"a,b\n1,2\n3,x\n", "line 3, column 2 ('b'): 'x' is no number"),
        (b"1,2\n3,x\n", "line 2, column 2: 'x' is no number"),
        (b"1,b\n3,4\n", "line 1, column 2: 'b' is no number"),
        (b"a,b\n1_000,2\n", "line 2, column 1 ('a'): '1_000' is no number"),
        ("a,b\n1,٢\n".encode(), "line 2, column 2 ('b'): '٢' is no number"),
        (b"a,b\n1,0x10\n", "line 2, column 2 ('b'): '0x10' is no number"),
        (b"a,b\n1,2\nnan,3\n", "line 3, column 1 ('a'): 'nan' is not finite"),
        (b"a,b\n1,-Infinity\n", "line 2, column 2 ('b'): '-Infinity' is not finite"),
        (b"nan,inf\n1,2\n", "line 1, column 1: 'nan' is not finite"),
        (b"a,b\n1,1e999\n", "line 2, column 2 ('b'): '1e999' is not finite"),
        (b"a,b\n1," + b"y" * 5000 + b"\n", "line 2, column 2 ('b'): 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy...'"),
        (b"a;b\n1,5;2\n", "line 2: 2 cells, and 1 in line 1"),
        (b",b\n0,1\n1,3\n", "line 1, column 1: the name is empty"),
        (b"a,b,a\n0,1,2\n1,3,4\n", "line 1, column 3: the name 'a' is also that of column 1"),
        (b'a,b\n1,"2\n3,4\n', "line 3: unexpected end of data"),
        (b"a,b\n1,2\n1,\xff\n", "line 3: not UTF-8 text"),
        (b"a,b\n1,2\x00\n", "line 2"),
    ],
)
def test_a_broken_csv_is_named_with_line_and_column(tmp_path, content, message):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_table(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(path)) + 200


def test_columns_that_cannot_be_standardised_are_named(tmp_path):
    for value, reason in (
        (0.1, "is constant"),
        (1e-200, "standard deviation is 0"),
        (1e300, "standard deviation is inf"),
    ):
        rows = np.column_stack([np.arange(6.0), np.full(6, value)])
        if value != 0.1:
            rows[::2, 1] = -value
        with pytest.raises(ValueError, match=f"w.csv: column 'width' {reason}|w.csv: column 'width': its {reason}"):
            load_table(write_csv(tmp_path / "w.csv", rows, "a,width\n"))
    # One row differs, and it is held out.
    np.savez(tmp_path / "held.npz", train=np.ones((3, 1)), heldout=np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"held.npz: column 'column 1' is constant in the 3 training rows"):
        load_table(tmp_path / "held.npz")


def test_a_column_that_follows_from_others_is_named(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 3))
    rows = np.column_stack([rows, 2 * rows[:, 0] - rows[:, 2] + 1, rows[:, 1] ** 2])
    with pytest.raises(ValueError, match=r"w\.csv: column 'd' is a sum of multiples of those before it"):
        load_table(write_csv(tmp_path / "w.csv", rows, "a,b,c,d,e\n"))
    # Few rows always lie on a plane; a covariance that is shrunk does without.
    assert load_table(write_csv(tmp_path / "w.csv", rows[:6], "a,b,c,d,e\n")).train.shape == (4, 5)


def broken_arrays():
    nan = ROWS.copy()
    nan[3, 1] = np.nan
    yield {"x": nan}, r"x\[3, 1\] is nan"
    yield {"train": ROWS, "heldout": np.where(np.isnan(nan), -np.inf, nan)}, r"heldout\[3, 1\] is -inf"
    yield {"x": ROWS.astype(object)}, "x holds objects"
    yield {"x": ROWS.astype(str)}, "x holds <U32; real numbers"
    yield {"x": ROWS + 0j}, "x holds <c16; real numbers"
    yield {"x": ROWS[0]}, r"x has shape \[2\]; a table has rows and columns"
    yield {"x": ROWS[:0]}, r"x has shape \[0, 2\]"
    yield {"x": ROWS[:, :0]}, r"x has shape \[6, 0\]"
    yield {"train": ROWS, "heldout": ROWS[:, :1]}, "train has 2 columns, heldout has 1"
    yield {"train": ROWS}, "holds 'train'; a table is 'x', or 'train' and 'heldout'"
    yield {"x": ROWS, "train": ROWS, "heldout": ROWS}, "holds 'x', 'train', 'heldout'; a table is"
    yield {"y": ROWS}, "holds 'y'; a table is"
    yield {}, "holds no array; a table is"


@pytest.mark.parametrize(("arrays", "message"), list(broken_arrays()))
def test_a_broken_npz_is_named_with_the_array(tmp_path, arrays, message):
    path = tmp_path / "broken.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        load_table(path)


def test_an_array_that_lies_about_its_shape_asks_for_no_memory(tmp_path):
    path = tmp_path / "lies.npz"
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member.getvalue() + ROWS.tobytes())
    with pytest.raises(ValueError, match=r"lies.npz: x says shape \[1000000000, 1000\] of <f8, 8000000000000 bytes"):
        load_table(path)


@pytest.mark.parametrize(("offset", "size"), [(20, 2**31), (24, 2**31)])
def test_an_archive_that_lies_about_its_sizes_asks_for_no_memory(tmp_path, offset, size):
    path = tmp_path / "lies.npz"
    np.savez_compressed(path, x=ROWS)
    content = bytearray(path.read_bytes())
    # In the directory at the end of the archive: the compressed size, then the other.
    at = content.rindex(b"PK\x01\x02") + offset
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"lies.npz: x says it has {size} bytes, more than the file can hold"):
        load_table(path)


def test_what_is_no_table_and_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv.*no such file; tables by name are wine, breast_cancer"):
        load_table(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="iris: no such file"):
        load_table("iris")
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"t.xlsx: the name must end in .csv or .npz"):
        load_table(tmp_path / "t.xlsx")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OSError, match=r"folder.csv"):
        load_table(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be 0 to .* got -1"),
        ({"heldout": 0.0}, r"heldout must be in \(0, 1\), got 0.0"),
        ({"heldout": 1.0}, r"heldout must be in \(0, 1\), got 1.0"),
        ({"heldout": float("nan")}, r"heldout must be in \(0, 1\), got nan"),
        ({"heldout": 0.9}, r"heldout = 0.9 of 6 rows leaves 0 .*2 are needed"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_table(write_csv(tmp_path / "t.csv"), **arguments)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), form=st.sampled_from(["csv", "npz", "zipped"]), operation=st.sampled_from(["cut", "flip", "insert"])
)
def test_a_damaged_file_is_refused_by_name_or_read(tmp_path, data, form, operation):
    path = tmp_path / f"damaged.{'csv' if form == 'csv' else 'npz'}"
    if form == "csv":
        write_csv(path)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, x=ROWS)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if operation == "cut":
        del content[at:]
    elif operation == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(content)
    try:
        split = load_table(path, heldout=0.3)
    except (ValueError, OSError) as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert np.isfinite(split.train).all() and np.isfinite(split.heldout).all()
        if form != "csv":  # an archive has checksums
            rows = split.units(np.concatenate([split.train, split.heldout]))
            assert_allclose(sorted(rows.tolist()), ROWS, rtol=1e-12)


def test_names_are_what_the_message_says():
    assert tuple(table_data.TABLES) == ("wine", "breast_cancer")
