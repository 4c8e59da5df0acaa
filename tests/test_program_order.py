"""Where nodes stood in the program, whatever passes did to the graph since."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.pattern_matcher import (
    CallFunctionVarArgs,
    PatternMatcherPass,
    register_graph_pattern,
)
from torch.fx.traceback import NodeSource

import torch_materialize as tm
from torch_materialize.inductor.fx.program_order import note, program_order


class Traced:
    """A graph made by hand, each node from an operation of its own in the program."""

    def __init__(self) -> None:
        self.program, self.graph = torch.fx.Graph(), torch.fx.Graph()

    def add(self, name: str, *inputs: torch.fx.Node) -> torch.fx.Node:
        operation = self.program.create_node("call_function", torch.add, name=name)
        node = self.graph.create_node("call_function", torch.add, inputs, name=name)
        node.meta["from_node"] = [NodeSource(operation, "traced")]
        return node

    def noted(self, output: torch.fx.Node) -> torch.fx.Graph:
        self.graph.output(output)
        note(self.graph)
        return self.graph


def replaced(node: torch.fx.Node, *names: str, told: bool = True) -> list[torch.fx.Node]:
    """What a pattern does: new nodes in place of one, the first of all of its inputs."""
    graph, made = node.graph, []
    with graph.inserting_before(node):
        for name in names:
            inputs = made[-1:] or node.all_input_nodes
            made.append(graph.create_node("call_function", torch.mul, tuple(inputs), name=name))
            if told:
                made[-1].meta["from_node"] = node.meta["from_node"]
    node.replace_all_uses_with(made[-1])
    graph.erase_node(node)
    return made


def ordered(graph: torch.fx.Graph) -> list[str]:
    place = program_order(graph)
    assert sorted(place.values()) == list(range(len(place)))
    return [node.name for node in sorted(place, key=place.__getitem__)]


def residual():
    """A norm, an opaque matmul, and the next norm, which reads the residual of the first."""
    traced = Traced()
    first = traced.add("norm")
    matmul = traced.add("matmul", first)
    second = traced.add("next_norm", first, matmul)
    return traced.noted(second), first, matmul, second


def test_without_any_note_it_is_the_order_of_the_graph():
    graph = torch.fx.Graph()
    graph.output([graph.placeholder("b"), graph.placeholder("a")])
    assert ordered(graph) == ["b", "a", "output"]


@pytest.mark.parametrize("told", [False, True])
def test_a_cast_that_is_made_late_stands_where_its_operation_stood(told):
    """vLLM's lowering of its norms: the residual is widened behind the matmul, not before."""
    graph, first, _, second = residual()
    with graph.inserting_before(second):
        wide = graph.create_node("call_function", torch.mul, (first,), name="wide")
        total = graph.create_node(
            "call_function", torch.add, (wide, second.args[1]), name="new_norm"
        )
    if told:
        for node in (wide, total):
            node.meta["from_node"] = second.meta["from_node"]
    second.replace_all_uses_with(total)
    graph.erase_node(second)
    assert ordered(graph) == ["norm", "matmul", "wide", "new_norm", "output"]


def test_what_was_moved_to_its_users_stands_where_it_stood():
    """`reorder_for_locality`: nothing but the user needs it, so it moved behind the matmul."""
    traced = Traced()
    x = traced.add("x")
    early = traced.add("early", x)
    matmul = traced.add("matmul", x)
    late = traced.add("late", matmul)
    both = traced.add("both", early, late)
    graph = traced.noted(both)
    both.prepend(early)
    assert ordered(graph) == ["x", "early", "matmul", "late", "both", "output"]


def test_what_was_hoisted_stands_where_it_stood():
    traced = Traced()
    x = traced.add("x")
    matmul = traced.add("matmul", x)
    late = traced.add("late", x)
    graph = traced.noted(traced.add("both", matmul, late))
    matmul.prepend(late)
    assert ordered(graph) == ["x", "matmul", "late", "both", "output"]


@pytest.mark.parametrize("tracked", [False, True])
def test_what_is_made_of_a_node_that_was_moved_stands_where_that_stood(tracked):
    """With provenance tracked, each pass adds a source that has sources of its own."""
    traced = Traced()
    x = traced.add("x")
    norm = traced.add("norm", x)
    matmul = traced.add("matmul", x)
    both = traced.add("both", matmul, norm)
    graph = traced.noted(both)
    both.prepend(norm)
    for made in replaced(norm, "square", "scaled"):
        if tracked:
            made.meta["from_node"] = [NodeSource(made, "lowering")]
    assert ordered(graph) == ["x", "square", "scaled", "matmul", "both", "output"]


def test_what_is_made_where_nothing_tells_of_what_goes_no_further_than_its_users():
    traced = Traced()
    x = traced.add("x")
    norm = traced.add("norm", x)
    used = traced.add("used", norm)
    matmul = traced.add("matmul", x)
    graph = traced.noted(traced.add("both", matmul, used))
    for node in (norm, used):
        graph.output_node().prev.prepend(node)
    replaced(norm, "square", "scaled", told=False)
    assert ordered(graph) == ["x", "square", "scaled", "used", "matmul", "both", "output"]


def test_what_was_made_to_read_a_later_value_stands_behind_it():
    graph, first, matmul, second = residual()
    first_user = next(iter(first.users))
    assert first_user is matmul
    with graph.inserting_after(matmul):
        late = graph.create_node("call_function", torch.mul, (matmul,), name="late")
    second.args = (late, matmul)
    assert ordered(graph) == ["norm", "matmul", "late", "next_norm", "output"]


@pytest.mark.parametrize("seed", range(40))
def test_random_moves_and_replacements(seed):
    """Any topological order, any nodes replaced: what is told of stands where it stood."""
    rng = random.Random(seed)
    traced = Traced()
    nodes: list[torch.fx.Node] = []
    for number in range(25):
        inputs = rng.sample(nodes, min(len(nodes), rng.randint(0, 2)))
        nodes.append(traced.add(f"n{number}", *inputs))
    graph = traced.noted(nodes[-1])
    _shuffle(graph, rng)
    for node in rng.sample(nodes[1:], 8):
        replaced(node, *(f"{node.name}_{part}" for part in "ab"))
    _shuffle(graph, rng)
    graph.lint()
    numbers = [int(name[1:].split("_")[0]) for name in ordered(graph)[:-1]]
    assert numbers == sorted(numbers)


def _shuffle(graph: torch.fx.Graph, rng: random.Random) -> None:
    """Puts the nodes into another topological order."""
    output, left, done = graph.output_node(), list(graph.nodes)[:-1], set()
    while left:
        ready = [n for n in left if done.issuperset(n.all_input_nodes)]
        node = rng.choice(ready)
        left.remove(node)
        done.add(node)
        output.prepend(node)


@pytest.mark.parametrize("seed", range(20))
def test_replacements_in_a_graph_that_nothing_moved_need_no_provenance(seed):
    rng = random.Random(seed)
    traced = Traced()
    nodes: list[torch.fx.Node] = []
    for number in range(25):
        inputs = rng.sample(nodes, min(len(nodes), rng.randint(0, 2)))
        nodes.append(traced.add(f"n{number}", *inputs))
    graph = traced.noted(nodes[-1])
    for node in rng.sample(nodes[1:], 8):
        replaced(node, *(f"{node.name}_{part}" for part in "ab"), told=False)
    assert ordered(graph) == [node.name for node in graph.nodes]


def test_a_long_graph_takes_no_time_and_no_recursion():
    traced = Traced()
    node = traced.add("n")
    for _ in range(5000):
        node = traced.add("n", node)
    graph = traced.noted(node)
    assert ordered(graph)[0] == "n"


# What it is for: a program whose operators are lowered late, whole and cut.


@functools.cache
def register() -> None:
    """A norm that is lowered late, as vLLM's are, and attention, which nothing looks into."""
    name = "torch_materialize_order_tests"

    def add_norm(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return add_and_norm(x, residual)

    def attention(x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0).contiguous()

    norm = torch.library.custom_op(f"{name}::add_norm", add_norm, mutates_args=())
    norm.register_fake(lambda x, residual: (torch.empty_like(x), torch.empty_like(x)))
    attend = torch.library.custom_op(f"{name}::attention", attention, mutates_args=())
    attend.register_fake(torch.empty_like)


def add_and_norm(x, residual):
    """By the largest, not by a mean: how a sum rounds follows from how it was vectorized."""
    total = x.float() + residual.float()
    normed = total / total.abs().amax(-1, keepdim=True)
    return normed.to(x.dtype), total.to(x.dtype)


class LowersNorms(CustomGraphPass):
    """vLLM's ``VllmIRLoweringPass``, in small."""

    def __call__(self, graph):
        patterns = PatternMatcherPass()
        norms = CallFunctionVarArgs([torch.ops.torch_materialize_order_tests.add_norm.default])

        def lower(match, *args, **kwargs):
            match.replace_by_example(add_and_norm, args, run_functional_passes=False)

        register_graph_pattern(norms, pass_dict=patterns)(lower)
        assert patterns.apply(graph)

    def uuid(self):
        return "lowers norms"

    def __deepcopy__(self, _memo):
        return self


def before(x, residual, weight):
    normed, residual = torch.ops.torch_materialize_order_tests.add_norm(x, residual)
    return normed @ weight, residual


def after(x, residual, weight):
    x, residual = before(x, residual, weight)
    normed, residual = torch.ops.torch_materialize_order_tests.add_norm(x.relu(), residual)
    return normed + residual


def answers(policy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the whole program answers, and its pieces."""
    register()
    torch.manual_seed(0)
    x, residual, weight = (torch.randn(64, 64, dtype=torch.bfloat16) for _ in range(3))

    def program(first, second):
        y, carried = first(x, residual, weight)
        return second(torch.ops.torch_materialize_order_tests.attention(y), carried, weight)

    with config.patch(post_grad_custom_post_pass=LowersNorms()), torch.no_grad():
        torch._dynamo.reset()
        compiled = functools.partial(torch.compile, options=tm.options(policy))
        whole = compiled(lambda: program(before, after))()
        torch._dynamo.reset()
        return whole, program(compiled(before), compiled(after))


@pytest.mark.e2e
@pytest.mark.usefixtures("dynamo")
@pytest.mark.full
def test_whole_and_pieces_answer_the_same_where_operators_are_lowered_late():
    whole, pieces = answers("plan")
    assert torch.equal(whole, pieces)
    # Stock's do not, or this would compare nothing.
    assert not torch.equal(*answers("stock"))
