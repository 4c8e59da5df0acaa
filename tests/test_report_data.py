"""What the page is given: pairs of kernels, differences of code, sums, traces."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from click.testing import CliRunner

import torch_materialize as tm
from reported import SIZE, SOURCES, alone, explanation, training, unchanged
from torch_materialize.cli.main import main
from torch_materialize.core.graph import Graph, Kernel, Tensor
from torch_materialize.errors import RecordError
from torch_materialize.inductor.offline.code import split
from torch_materialize.report.code import difference, name_pointers, pointers
from torch_materialize.report.payload import payload
from torch_materialize.report.report import Report
from torch_materialize.report.trace import read_trace
from torch_materialize.results.explanation import ExplainedGraph, Side
from torch_materialize.results.pairs import kernel_pairs


def saved(one) -> int:
    return one.traffic("stock").bytes - one.traffic("plan").bytes


@pytest.mark.parametrize("made", [explanation, training, unchanged])
def test_what_the_page_lists_as_saved_adds_up_to_what_is_saved(made):
    """By line, module and tensor, and by pairs of kernels."""
    one = made()
    found = payload(one)
    changes = found["changes"]
    by_tensor = [
        tensor[2]
        for line in changes["lines"]
        for module in line["modules"]
        for tensor in module["tensors"]
    ]
    assert sum(by_tensor) + changes["otherwise"] == changes["saved"] == saved(one)
    by_pair = 0
    for graph in found["graphs"]:
        moved = {
            policy: [sum(b for _, b in k["reads"] + k["writes"]) for k in kernels]
            for policy, kernels in graph["kernels"].items()
        }
        for before, after, *_ in graph["pairs"]:
            by_pair += sum(moved["stock"][i] for i in before)
            by_pair -= sum(moved["plan"][i] for i in after)
    assert by_pair == saved(one)


def test_every_fused_kernel_is_in_one_pair():
    for one in (explanation(), training(), unchanged()):
        for graph in one.graphs:
            for side, policy in (("before", "stock"), ("after", "plan")):
                places = [
                    p
                    for pair in kernel_pairs(graph, 0, "stock", "plan")
                    for p in getattr(pair, side)
                ]
                kernels = enumerate(graph.sides[policy].graph.kernels)
                assert sorted(places) == [p for p, kernel in kernels if kernel.fused]


def test_kernels_that_do_the_same_are_not_changed():
    pairs = kernel_pairs(unchanged().graphs[0], 0, "stock", "plan")
    assert not any(pair.changed for pair in pairs)
    pairs = kernel_pairs(explanation().graphs[0], 0, "stock", "plan")
    assert all(pair.changed for pair in pairs)


def graph_of(**kernels: list[Kernel]) -> ExplainedGraph:
    """A graph whose buffers hold the nodes they are called by, `bufN` what has no node."""
    names = {n for ks in kernels.values() for k in ks for n in (*k.reads, *k.writes)}
    tensors = {
        n: Tensor(n, "" if n.startswith(("buf", "arg")) else n, SIZE, "bfloat16") for n in names
    }
    sides = {policy: Side(Graph(tuple(ks), tensors)) for policy, ks in kernels.items()}
    return ExplainedGraph("inference", 1, {}, sides, ())


def kernel(name: str, reads: str, writes: str, computes: str) -> Kernel:
    sizes = [dict.fromkeys(names.split(), SIZE) for names in (reads, writes)]
    return Kernel(name, "pointwise", *sizes, tuple(computes.split()))


def test_buffers_without_a_node_may_be_called_otherwise():
    """The scheduler numbers anew: the clone in `buf2` of one is in `buf1` of the other."""
    graph = graph_of(
        stock=[kernel("a", "mm_1", "add", "add"), kernel("b", "mm_2", "buf2", "clone")],
        plan=[kernel("c", "mm_2", "buf1", "clone"), kernel("d", "mm_1", "add", "add")],
    )
    assert [(p.before, p.after, p.changed) for p in kernel_pairs(graph, 0, "stock", "plan")] == [
        ((1,), (0,), False),
        ((0,), (1,), False),
    ]


def test_a_kernel_that_another_takes_in_is_beside_it():
    """Stock writes the sum and copies it; the plan's copy computes the sum itself."""
    graph = graph_of(
        stock=[kernel("a", "mm_1", "add", "add"), kernel("b", "add", "buf1", "clone")],
        plan=[kernel("c", "mm_1", "buf0", "add clone")],
    )
    (pair,) = kernel_pairs(graph, 0, "stock", "plan")
    assert (pair.before, pair.after, pair.changed) == ((0, 1), (0,), True)


def test_a_kernel_like_no_other_is_alone():
    graph = graph_of(
        stock=[kernel("a", "mm_1", "x", "x")],
        plan=[kernel("c", "mm_1", "x", "x"), kernel("d", "arg9", "y", "y")],
    )
    assert [(p.before, p.after) for p in kernel_pairs(graph, 0, "stock", "plan")] == [
        ((0,), (0,)),
        ((), (1,)),
    ]


def test_lines_are_compared_by_what_they_load_and_not_by_numbers():
    lines = [SOURCES[policy].split("\n") for policy in ("stock", "plan")]
    named = (
        {"in_ptr0": ("mm", "mm"), "in_ptr1": ("sum_0", "sum_0"), "out_ptr0": ("y", "y")},
        {"in_ptr0": ("sum_0", "sum_0"), "out_ptr0": ("y", "y")},
    )
    gone = [
        lines[0][i]
        for tag, i1, i2, _, _ in difference(*lines, named)
        for i in range(i1, i2)
        if tag != "equal"
    ]
    assert [line.split("#")[0].strip() for line in gone] == [
        "tmp0 = tl.load(in_ptr0 + (x0), None)",
        "tmp2 = tmp0 + tmp1",
    ]
    elsewhere = ({**named[0], "in_ptr1": ("other", "other")}, named[1])
    assert difference(*lines, elsewhere) != difference(*lines, named)


def test_what_a_pointer_in_place_is_depends_on_whether_it_was_written():
    load, store = "tmp0 = tl.load(in_out_ptr0 + (x0))", "tl.store(in_out_ptr0 + (x0), tmp0)"
    one = {"in_out_ptr0": ("mm", "sum")}
    other = {"in_out_ptr0": ("add", "sum")}
    lines = [load, store, load]
    tags = [tag for tag, *_ in difference(lines, lines, (one, other))]
    assert tags == ["replace", "equal"]


def test_what_the_memory_of_an_input_held_before_is_nothing_to_a_kernel():
    source = "@triton.jit\ndef triton_x(in_out_ptr0, in_ptr0, XBLOCK : tl.constexpr):"
    named = name_pointers(source, [("mm", "sum"), ("mul", "mm_2")])
    assert named == {"in_out_ptr0": ("mm", "sum"), "in_ptr0": ("mm_2", "mm_2")}


def test_pointers_of_both_languages():
    assert pointers(SOURCES["stock"]) == ["in_ptr0", "in_ptr1", "out_ptr0"]
    cpp = (
        '#include <torch/csrc/inductor/cpp_prefix.h>\nextern "C"  void  kernel(float* in_out_ptr0,'
        "\n             const bfloat16* in_ptr0,\n             float* out_ptr1)\n{"
    )
    assert pointers(cpp) == ["in_out_ptr0", "in_ptr0", "out_ptr1"]


WRAPPER = """
triton_poi_fused_add_0 = async_compile.triton('triton_poi_fused_add_0', '''
@triton.jit
def triton_poi_fused_add_0(in_out_ptr0, in_ptr0, xnumel, XBLOCK : tl.constexpr):
    pass
''', device_str='cuda')

def call(args):
    arg0_1, arg1_1, s77 = args
    with torch.cuda._DeviceGuard(0):
        buf0 = empty_strided_cuda((8, 64), (64, 1), torch.bfloat16)
        extern_kernels.mm(arg0_1, arg1_1, out=buf0)
        buf1 = reinterpret_tensor(buf0, (8, 64), (64, 1), 0); del buf0  # reuse
        triton_poi_fused_add_0.run(buf1, reinterpret_tensor(arg1_1, (8,), (1,), 0), s77, stream=s)
    return (buf1, )
"""


def test_a_launch_says_what_it_is_called_with():
    code = split(WRAPPER, 1)
    assert code.launches == ("triton_poi_fused_add_0",)
    assert code.arguments[0][:2] == ("buf1", "arg1_1")
    side = Side(Graph((), {"buf1": Tensor("buf1", "sum", 1, "")}), code=code)
    assert side.arguments_of(0)[0] == ("buf0", "sum")
    assert split(WRAPPER, 2).arguments == ()


def test_a_kernel_works_for_the_last_module_or_for_all_that_it_writes_for():
    graph = explanation().graphs[0]
    assert graph.works_for("plan")[3] == ("Norm", "layers.3.norm")
    (first, *rest) = graph.sides["plan"].graph.kernels
    both = Kernel("op", "pointwise", {}, {"buf0": 1, "buf1": 1}, ("sum_0", "sum_1"))
    side = replace(
        graph.sides["plan"], graph=Graph((both, *rest), graph.sides["plan"].graph.tensors)
    )
    changed = replace(graph, sides={**graph.sides, "plan": side})
    assert changed.works_for("plan")[0] == ("Norm", "layers")
    assert first.name


def events(*named: tuple[str, str, float]) -> dict[str, object]:
    return {"traceEvents": [{"ph": "X", "name": n, "cat": c, "dur": d} for n, c, d in named]}


def test_of_a_trace_the_times_on_the_gpu_count(tmp_path):
    """The profiler has a launch on the CPU and the kernel itself, both by one name."""
    path = tmp_path / "trace.json.gz"
    trace = events(
        ("triton_norm_fused_1", "cpu_op", 90),
        ("triton_norm_fused_1", "kernel", 2),
        ("triton_norm_fused_1", "kernel", 3.5),
        ("triton_norm_fused_1", "kernel", 900),
        ("graph_0_cpp_fused_add_0", "cpu_op", 7),
        ("aten::mm", "cpu_op", 9),
    )
    path.write_bytes(gzip.compress(json.dumps(trace).encode()))
    assert read_trace(path).kernels == {
        "cpp_fused_add_0": (1, 7),
        "triton_norm_fused_1": (3, 3.5),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"a": 1}', "expected a trace with traceEvents"), (json.dumps(events()), "found none in 0")],
)
def test_what_is_no_trace_of_ours_is_said_to_be_none(tmp_path, content, words):
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=words):
        read_trace(path)


def test_report_takes_a_trace_into_the_page_alone(tmp_path):
    record, trace, page = (tmp_path / name for name in ("r.json", "t.json", "p.html"))
    Report(explanation()).save(record)
    trace.write_text(json.dumps(events(("triton_fused_norm_7", "kernel", 2))))
    found = CliRunner().invoke(main, ["report", str(record), "--trace", str(trace)])
    assert found.exit_code == 2
    assert "--html" in found.output
    command = ["report", str(record), "--trace", str(trace), "--html", str(page)]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert page.exists()


def test_one_policy_alone_changes_nothing():
    found = payload(alone())
    assert not any(changed for _, _, changed, *_ in found["graphs"][0]["pairs"])
    assert found["changes"]["lines"] == []


class _Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(width)
        self.linear = torch.nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.linear(self.norm(x)).relu()


@pytest.mark.full
@pytest.mark.e2e
def test_the_profiler_calls_kernels_what_the_record_calls_them(tmp_path):
    """A compile under the plan that is profiled, beside the record of a dry run."""
    model = torch.nn.Sequential(_Block(256), _Block(256)).bfloat16()
    x = torch.randn(512, 256, dtype=torch.bfloat16)
    settings = {"cpp.enable_kernel_profile": True, "force_disable_caches": True}
    with torch.no_grad(), torch._inductor.config.patch(settings):
        record = tm.explain(model, x, device="cpu", code=True).explanation
        compiled = torch.compile(model, options=tm.options("plan"))
        compiled(x)
        with torch.profiler.profile() as profiled:
            compiled(x)
    path = tmp_path / "trace.json"
    profiled.export_chrome_trace(str(path))
    (graph,) = record.graphs
    code = graph.sides["plan"].code
    assert code is not None and code.launches
    assert set(code.launches) == set(read_trace(path).kernels)
