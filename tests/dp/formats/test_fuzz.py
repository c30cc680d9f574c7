"""A few hundred broken files; `python -m experiments.fuzz_formats` breaks as many as one likes."""

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp.formats import drn, prism_text, text
from experiments import formats_oracle, fuzz_formats

pytestmark = pytest.mark.usefixtures("unchecked")  # checks of shapes, line by line, would be most of the time
some = functools.partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@some(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_broken_file_is_refused_or_read_as_it_stands(folder: Path, seed: int):
    assert fuzz_formats.attempt(seed, folder).wrong is None


@pytest.mark.slow
@some(max_examples=600)
@given(seed=st.integers(0, 2**32 - 1))
def test_hundreds_of_broken_files_are_refused_or_read_as_they_stand(folder: Path, seed: int):
    assert fuzz_formats.attempt(seed, folder).wrong is None


def fails(path: Any, number: str, line: int) -> float:
    raise KeyError(number)


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (text, "_convert", lambda path, number, line: float(number) * (1 + 1e-9)),
        (text, "_convert", fails),
        (drn, "_labels", lambda path, line, n: []),
        pytest.param(prism_text, "LABEL", text.DECIMAL, marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_is_wrong_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Any
):
    monkeypatch.setattr(module, name, broken)
    assert any(fuzz_formats.attempt(seed, folder).wrong for seed in range(100))


def test_the_second_reading_says_what_a_file_means():
    meaning = formats_oracle.drn("@nr_states\n1\n@model\nstate 0 a\n\taction 0\n\t\t0 : 1\n")
    assert meaning is not None and meaning.labels == {"a": {0}} and meaning.rows == [[({0: 1}, {})]]
    assert formats_oracle.drn("@nr_states\n2\n@model\nstate 0 a\n\taction 0\n\t\t0 : 1\n") is None
    assert formats_oracle.drn("@nr_states\n1\n@model\nstate 0 a\n\taction 0\n\t\t0 : 1/2\n") is None
