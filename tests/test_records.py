"""Records: what is read is what was written, and for what cannot be read one clear error."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import get_args

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torch_materialize as tm
from reported import compared, explanation
from tiers import but
from torch_materialize.cli.main import main
from torch_materialize.core.policy import STOCK, parse
from torch_materialize.report.report import Report
from torch_materialize.results.agreement import AGREEMENT, Agreement
from torch_materialize.results.base import Schema, convert, read_json, write_json
from torch_materialize.results.explanation import Explanation
from torch_materialize.results.headline import NOT_PRICED
from torch_materialize.results.plan_claims import CLAIMS, Claims
from torch_materialize.results.plan_file import PLAN_FILE, PlanFile
from torch_materialize.results.record import EXPLANATION
from torch_materialize.sweep.file import SWEEP
from torch_materialize.sweep.rows import BASE, GraphRow, Measured, Request
from torch_materialize.sweep.run import Sweep
from upstream.outcomes import RUN, UpstreamRun

quick = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# What no file has: a record holds what its own code made, and figures are of policies that it has.
st.register_type_strategy(
    Mapping,
    lambda kind: st.dictionaries(*map(st.from_type, get_args(kind)), max_size=3),
)


def short(kind):
    """Tuples of two at most where a field takes any number: an explanation is deep enough."""
    each = get_args(kind)
    if each[-1] is ...:
        return st.lists(st.from_type(each[0]), max_size=2).map(tuple)
    return st.tuples(*map(st.from_type, each))


st.register_type_strategy(tuple, short)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(
    GraphRow,
    st.builds(GraphRow, bytes=st.fixed_dictionaries({BASE: st.integers(0, 2**70)})),
)


def values(kind, **chosen):
    """Any value of a dataclass, every field drawn, those with a default too."""
    return st.builds(kind, **{one.name: ... for one in fields(kind)} | chosen)


POLICY = st.sampled_from([STOCK, parse("plan:limits=strong")])
EVERY = [
    (EXPLANATION, values(Explanation, policies=st.just(()), priced=st.just("plan"))),
    (PLAN_FILE, values(PlanFile)),
    (CLAIMS, values(Claims)),
    (AGREEMENT, values(Agreement)),
    (RUN, values(UpstreamRun, files=st.just(()), policy=POLICY)),
]


@pytest.mark.parametrize(
    ("schema", "any_value"),
    EVERY,
    ids=["explanation", "plan", "claims", "agreement", "upstream"],
)
@pytest.mark.parametrize("end", but([".json"], [".json", ".json.gz"]))
@quick
@given(data=st.data())
def test_what_is_read_is_what_was_written(tmp_path, schema, any_value, end, data):
    value, path = data.draw(any_value), tmp_path / f"x{end}"
    schema.save(value, path)
    read = schema.load(path)
    assert read == value
    # A whole number in a field for any number is that number in the next file.
    schema.save(read, path)
    written = path.read_bytes()
    schema.save(schema.load(path), path)
    assert path.read_bytes() == written


@quick
@given(request=st.from_type(Request), found=st.from_type(Measured))
def test_what_processes_of_a_sweep_tell_each_other_arrives(tmp_path, request, found):
    for value in (request, found):
        write_json(tmp_path / "x.json", Schema(type(value), "x", 1).to_json(value))
        assert convert(read_json(tmp_path / "x.json"), type(value), "x") == value


@quick
@given(versions=..., date=..., request=st.from_type(Request), found=st.from_type(Measured))
def test_a_sweep_is_read_as_it_was_written(
    tmp_path, versions: Mapping[str, str], date: str, request: Request, found: Measured
):
    only = replace(request.settings, policies=())
    sweep = Sweep(only, versions, date, (), found.graphs)
    SWEEP.save(sweep, tmp_path / "x.json")
    assert SWEEP.load(tmp_path / "x.json") == sweep


@dataclass(frozen=True)
class Old:
    name: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class New:
    name: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    more: frozenset[str] = frozenset({"a"})


OLD, NEW = Schema(Old, "thing", 3), Schema(New, "thing", 3)


def test_a_new_field_with_a_default_is_damage_to_nobody(tmp_path):
    path = tmp_path / "x.json"
    NEW.save(New("n", {}, frozenset("cba")), path)
    assert OLD.load(path) == Old("n")
    assert read_json(path)["more"] == ["a", "b", "c"]
    OLD.save(Old("n"), path)
    assert NEW.load(path) == New("n")
    # What was absent is written as if it had been there.
    NEW.save(NEW.load(path), path)
    assert read_json(path)["more"] == ["a"]


def test_numbers_without_a_word_in_json(tmp_path):
    path = tmp_path / "x.json"
    OLD.save(Old("n", {"a": math.inf, "b": -math.inf, "c": math.nan}), path)
    numbers = OLD.load(path).numbers
    assert (numbers["a"], numbers["b"]) == (math.inf, -math.inf)
    assert math.isnan(numbers["c"])


HEADER = {"schema": "torch-materialize/thing", "version": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["is not JSON", "Make it anew"]),
        (b'{"schema": "torch-ma', ["is not JSON", "column"]),
        (b"\xff\xfe\x00", ["is not JSON"]),
        (b"[" * 100_000, ["is not JSON"]),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], ["is damaged"]),
        (gzip.compress(b"{}" * 99, mtime=0)[:20] + b"x" * 30, ["is damaged"]),
        ([], ["expected schema 'torch-materialize/thing'; found 'list'"]),
        ({"schema": "torch-materialize/sweep"}, ["found 'torch-materialize/sweep'", "Name a file"]),
        (HEADER | {"version": 4, "writer": "w 9"}, ["expected version 3; found 4", "(w 9)"]),
        (HEADER, ["damaged", "missing required field `name`"]),
        (HEADER | {"name": 3}, ["Expected `str`, got `int`", "`$.name`"]),
        (HEADER | {"name": "n", "numbers": {"a": "1"}}, ["Expected `float`, got `str`", "numbers"]),
        (HEADER | {"name": "n", "numbers": None}, ["Expected `object`, got `null`"]),
    ],
)
def test_what_cannot_be_read_is_one_error_with_the_place_and_the_next_step(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(tm.RecordError) as found:
        OLD.load(path)
    assert all(words in str(found.value) for words in (str(path), *said)), found.value


def test_every_further_field_of_a_record_has_a_default():
    """A field that older files lack must not make them damaged."""
    required = {
        kind: {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
        for kind in (Explanation, PlanFile, Claims, Sweep)
    }
    assert required == {
        Explanation: {"target", "device", "policies", "priced", "graphs"},
        PlanFile: {"key", "kind", "nodes", "device", "policy", "versions", "check"},
        Claims: {"target", "device", "policy", "graphs"},
        Sweep: {"settings", "versions", "date"},
    }


@pytest.fixture
def unpriced(tmp_path):
    path = tmp_path / "compared.json"
    EXPLANATION.save(compared(), path)
    return path


def test_what_compare_wrote_is_shown_without_prices(unpriced, tmp_path):
    for words in (["report", unpriced, "--html", tmp_path / "x.html"], ["why", unpriced, "sum_1"]):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        assert NOT_PRICED in done.output
    page = (tmp_path / "x.html").read_text().partition("<script")[0]
    assert NOT_PRICED in page and "decides nothing otherwise" not in page
    done = CliRunner().invoke(main, ["diff", f"{unpriced}@stock", str(unpriced)])
    assert done.exit_code == 0, done.output
    assert "Tensors decided otherwise" in done.output
    assert NOT_PRICED not in Report(explanation()).text()
