"""An explanation made by hand, as `explain` would give it, for tests of the report."""

from __future__ import annotations

from dataclasses import replace

from torch_materialize.core.graph import Graph, Kernel, Tensor
from torch_materialize.core.story import Group, TensorChoice
from torch_materialize.results.explanation import Code, ExplainedGraph, Explanation, Node, Side

SIZE = 1 << 20
POLICIES = ("stock", "traffic", "plan")
PATH = "/home/me/site-packages/model/net.py"
# Stock reads what the sum was made of; the plan reads the sum.  Temporaries are numbered anew.
SOURCES = {
    "stock": """@triton.jit
def triton_norm_1(in_ptr0, in_ptr1, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    x0 = xindex
    tmp0 = tl.load(in_ptr0 + (x0), None)  # <script>
    tmp1 = tl.load(in_ptr1 + (x0), None)
    tmp2 = tmp0 + tmp1
    tl.store(out_ptr0 + (x0), tmp2, None)""",
    "plan": """@triton.jit
def triton_norm_7(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    x0 = xindex
    tmp1 = tl.load(in_ptr0 + (x0), None)
    tl.store(out_ptr0 + (x0), tmp1, None)""",
}
_LONG = f"x0 = xindex  # {'a long line ' * 30}"
SOURCES = {policy: source.replace("x0 = xindex", _LONG) for policy, source in SOURCES.items()}


def explanation(layers: int = 6, per_layer: int = 4, with_code: bool = True) -> Explanation:
    """Layers of a sum and of tensors computed from it.

    Under stock each layer's kernel reads what the sums of up to eight layers before it are made
    of, under the plan the sum alone.
    """
    facts, choices = {}, []
    kernels: dict[str, list[Kernel]] = {policy: [] for policy in POLICIES}
    for layer in range(layers):
        for place in range(per_layer):
            name = f"sum_{layer}" if place == 0 else f"value_{layer}_{place}"
            facts[name] = _fact(name, layer, place)
            choices.append(_choice(name, layer, place))
        made = (f"sum_{layer}", *(f"value_{layer}_{i}" for i in range(1, per_layer)))
        for policy in POLICIES:
            kernels[policy].append(_kernel(policy, layer, made))
    tensors = {"arg0_1": Tensor("arg0_1", "", SIZE, "bfloat16")}
    for layer in range(layers):
        tensors[f"buf{layer}"] = Tensor(f"buf{layer}", f"sum_{layer}", SIZE, "bfloat16")
        tensors[f"out{layer}"] = Tensor(f"out{layer}", f"value_{layer}_1", SIZE, "bfloat16")
    sides = {
        policy: Side(
            Graph(tuple(kernels[policy]), tensors),
            bound=float(SIZE) if policy == "plan" else None,
            work={f"op{i}": 5 * SIZE for i in range(layers)},
            code=_code(policy, layers) if with_code else None,
        )
        for policy in POLICIES
    }
    group = Group(tuple(f"sum_{i}" for i in range(layers)), 10 * SIZE, 20 * SIZE)
    # What is missing to all that is saved no tensor explains.
    saves = {f"sum_{i}": i * SIZE for i in range(1, layers - 1)} | {"value_0_1": -SIZE}
    graph = ExplainedGraph(
        kind="inference",
        nodes=layers * per_layer,
        facts=facts,
        sides=sides,
        decisions=tuple(choices),
        groups=(group,),
        saves={"plan": saves},
    )
    return Explanation(
        target="net",
        device="h200",
        policies=POLICIES,
        priced="plan",
        graphs=(graph,),
        unit_bytes=SIZE,
        seconds={"build": 0.1},
        versions={"torch-materialize": "0", "torch": "2"},
        balance=0.02,
        lines={f"{PATH}:1": "x = x + self.attn(x)", f"{PATH}:2": "y = norm(x)"},
    )


def training() -> Explanation:
    """The same as a forward and a backward, with what is not fused between the kernels."""
    base = explanation()
    graph = base.graphs[0]
    matmul = Kernel("mm", "extern", {"buf0": SIZE}, {"out9": SIZE})

    def with_matmul(side: Side) -> Side:
        kernels = side.graph.kernels
        return replace(side, graph=Graph((*kernels[:2], matmul, *kernels[2:]), side.graph.tensors))

    forward = replace(graph, kind="forward")
    sides = {policy: with_matmul(side) for policy, side in graph.sides.items()}
    return replace(base, graphs=(forward, replace(graph, kind="backward", sides=sides)))


def unchanged() -> Explanation:
    """A plan that does what stock does."""
    base = explanation(with_code=False)
    graph = base.graphs[0]
    sides = dict.fromkeys(POLICIES, graph.sides["stock"])
    return replace(base, graphs=(replace(graph, sides=sides, saves={"plan": {}}),))


def compared() -> Explanation:
    """A record of an older `compare`: no prices, and what a tensor saves is unknown."""
    full = explanation(with_code=False)
    (graph,) = full.graphs
    plain = tuple(
        replace(one, stored_bytes=None, inlined_bytes=None, alone_saves=None, peak_change=0)
        for one in graph.decisions
    )
    graphs = (replace(graph, decisions=plain, groups=(), saves={}),)
    return replace(full, graphs=graphs, prices=False)


def alone() -> Explanation:
    """One policy, with nothing to hold it against."""
    base = explanation()
    graph = base.graphs[0]
    sides = {"stock": graph.sides["stock"]}
    choices = tuple(replace(one, rules={"stock": one.rules["stock"]}) for one in graph.decisions)
    graphs = (replace(graph, sides=sides, saves={}, decisions=choices),)
    return replace(base, policies=("stock",), priced="stock", graphs=graphs)


def _fact(name: str, layer: int, place: int) -> Node:
    return Node(
        name=name,
        op="aten.add.Tensor",
        module=f"layers.{layer}.norm",
        layer="Norm",
        source=f"{PATH}:{place + 1}",
        dtype="bfloat16",
        shape=("8", "64"),
        bytes=SIZE * (place + 1),
        kind="pointwise",
    )


def _choice(name: str, layer: int, place: int) -> TensorChoice:
    is_open = place < 2
    return TensorChoice(
        name,
        {policy: policy if is_open else "needed" for policy in POLICIES},
        stored_bytes=10 * SIZE + place if is_open else None,
        inlined_bytes=(10 + layer) * SIZE if is_open else None,
        peak_change=SIZE if place else 0,
        alone_saves=SIZE,
        rounding="bfloat16" if place == 0 else "",
    )


def _kernel(policy: str, layer: int, made: tuple[str, ...]) -> Kernel:
    reads = {"arg0_1": SIZE}
    if layer:
        reads[f"buf{layer - 1}"] = SIZE
    if policy == "stock":
        reads |= {f"buf{i}": SIZE for i in range(max(0, layer - 8), layer)}
    written = f"buf{layer}" if policy == "plan" else f"out{layer}"
    return Kernel(f"op{layer}", "pointwise", reads, {written: SIZE}, made)


def _code(policy: str, layers: int) -> Code:
    name = "triton_norm_7" if policy == "plan" else "triton_norm_1"
    source = SOURCES["plan" if policy == "plan" else "stock"]
    written = "buf" if policy == "plan" else "out"
    read = ("arg0_1",) if policy == "plan" else ("arg0_1", "buf0")
    arguments = tuple((*read, f"{written}{i}") for i in range(layers))
    return Code({name: source}, (name,) * layers, arguments)
