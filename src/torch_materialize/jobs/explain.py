"""One model under several policies, in bytes, kernels and decisions with their reasons.

`explain` prices the decisions, `compare` does not.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.devices import HERE, find
from ..core.limits import limits_for
from ..core.policy import PREDICTED, STOCK, Policy, PolicyLike, parse
from ..errors import CaptureError, MaterializeError, TargetError, brief
from ..report.report import Report
from ..results.explanation import Code, ExplainedGraph, Explanation
from ..results.source_text import lines_of
from ..versions import installed_versions, triton_to_install

if TYPE_CHECKING:
    from ..core.devices import Device
    from ..inductor.fx.post_grad import PostGrad
    from ..inductor.offline.compiler import Compiler
    from ..inductor.plan.outcome import Outcome
    from ..models.names import Size
    from ..models.targets import Built

__all__ = ["Step", "beside_stock", "build", "check_words", "compare", "explain", "explain_target"]

#: What is called before each step: the step's text, steps done, steps in all.
Step = Callable[[str, int, int], None]


def explain(
    model: Callable[..., Any],
    *inputs: Any,
    device: str = "h200",
    policies: Sequence[PolicyLike] = PREDICTED,
    training: bool = False,
    code: bool = False,
    **named_inputs: Any,
) -> Report:
    """Says which intermediates of a model are written to memory, and why.

    It is called with ``inputs`` and ``named_inputs``, traced on fake copies and planned for
    ``device``, one of :data:`.core.devices.DEVICES`, which need not be there; nothing runs.  The
    first policy is what the rest are held against, and the last `plan` among them the one
    whose decisions are priced.  ``training`` explains forwards and backwards; ``code`` adds the
    generated kernels.

    Raises:
        TargetError: no such device.
        CaptureError: the model cannot be traced or lowered.
        UnknownPolicyError: a policy is misspelt.
        UnsupportedTorchError: this torch cannot lower a graph on trial.
    """
    explainer = _Explainer(policies, device, training, code)
    explainer.check()
    from ..inductor.offline import capture, fakes

    mode = capture.fake_mode()
    with explainer.clock("build"):
        copied, args, kwargs = fakes.fake_copy(model, inputs, named_inputs, mode)
    graphs = explainer.capture(copied, args, kwargs, mode)
    name = getattr(model, "__name__", "") or type(getattr(model, "_orig_mod", model)).__name__
    return Report(explainer.explanation(name, graphs))


def explain_target(
    target: str,
    policies: Sequence[PolicyLike] = PREDICTED,
    device: str = "h200",
    *,
    tokens: int = 8192,
    batch: int = 1,
    layers: int | None = None,
    tracing: str = "dynamo",
    training: bool = False,
    code: bool = False,
    prices: bool = True,
    step: Step = lambda _text, _done, _all: None,
) -> Explanation:
    """:func:`explain` for what a command names: a built-in target, a user's, one of the corpus.

    ``device`` may be ``here``, this machine's GPU.  ``tokens``, ``batch`` and ``layers`` size the
    built-in models; ``tracing`` is ``dynamo`` (the whole pipeline of ``torch.compile``) or
    ``make_fx`` (straight to a post-grad graph).

    Raises:
        TargetError: no such target or device, or the target does not import or build.  A misspelt
            word is refused before torch is loaded.
        CaptureError, UnknownPolicyError, UnsupportedTorchError: as for :func:`explain`.
    """
    from ..models.names import Size

    check_words(target, policies, device)
    explainer = _Explainer(policies, device, training, code, tracing, prices, step)
    explainer.check()

    explainer.step(f"building {target}", 0)
    with explainer.clock("build"):
        built, mode = build(target, training, Size(tokens, batch, layers))
    graphs = explainer.capture(built.model, built.args, built.kwargs, mode, built.compiler)
    size = {"tokens": tokens, "batch": batch, "layers": layers} if built.unit_bytes else {}
    command = (target, *explainer.words(), *_size_words(Size(tokens, batch, layers), Size()))
    return explainer.explanation(target, graphs, built.unit_bytes, size, command)


def check_words(target: str, policies: Sequence[PolicyLike], device: str) -> None:
    """Checks that all that was named is there, as far as that is known without loading torch.

    Raises:
        TargetError: there is no such target or device.
        UnknownPolicyError: a policy is misspelt.
    """
    from ..models.names import check_target
    from ..sweep.registry import CORPUS

    check_target(target, [model.name for model in CORPUS])
    beside_stock(policies)
    if device not in HERE:
        find(device)


#: :func:`explain_target` without prices, which take longest after the trial lowerings.
compare = functools.partial(explain_target, prices=False)


def beside_stock(policies: Sequence[PolicyLike]) -> tuple[Policy, ...]:
    """These policies, each once; stock before them where it is not among them.

    A policy held against itself says nothing.

    Raises:
        UnknownPolicyError: a policy is misspelt.
    """
    chosen = tuple(dict.fromkeys(parse(policy) for policy in policies))
    return chosen if STOCK in chosen else (STOCK, *chosen)


def _size_words(size: Size, usual: Size) -> list[str]:
    """The options of a command that size a model, without those that have their default."""
    pairs = [(name, value) for name, value in vars(size).items() if value != vars(usual)[name]]
    return [word for name, value in pairs for word in (f"--{name}", str(value))]


def build(target: str, training: bool, size: Size) -> tuple[Built, Any]:
    """A target's model and inputs, and the mode that they are fake in."""
    from ..inductor.offline.capture import fake_mode
    from ..models.names import BUILT_IN
    from ..models.targets import Built, load
    from ..sweep.registry import CORPUS
    from ..sweep.registry import find as find_model

    if target not in BUILT_IN and any(model.name == target for model in CORPUS):
        from ..sweep import construct

        mode = construct.zeros_mode()
        model = find_model(target)
        made = construct.build(model, "training" if training else "inference", mode)
        return Built(*made), mode
    mode = fake_mode()
    with mode:
        return load(target, size), mode


@dataclass
class _Explainer:
    """One explanation in the making."""

    requested: Sequence[PolicyLike]
    device_name: str
    training: bool = False
    code: bool = False
    tracing: str = "dynamo"
    prices: bool = True
    report_step: Step = lambda _text, _done, _all: None
    seconds: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Looks at every word before torch is loaded, and at torch before it is used."""
        self.policies = beside_stock(self.requested)
        if self.device_name not in HERE:
            find(self.device_name)
        from ..inductor.read.at_hand import device_named

        self.device: Device = device_named(self.device_name)
        command = triton_to_install()
        if self.code and self.device.is_gpu and command:
            raise TargetError(
                f"code for {self.device.name} needs Triton; found none. "
                f"Install it ({command}), or leave the code out."
            )
        plans = [policy for policy in self.policies if policy.name == "plan"]
        self.priced = str((plans or self.policies)[-1])
        from ..inductor.contract import seams

        seams.require("compare")

    def words(self) -> list[str]:
        """The options of the command that explains this, without those left at their default.

        How a device is called goes first, so that whoever copies the line sees it.
        """
        words = ["--device", self.device_name]
        words += ["--training"] if self.training else []
        words += ["--tracing", self.tracing] if self.tracing != "dynamo" else []
        if self.policies != tuple(map(parse, PREDICTED)):
            words += [word for policy in self.policies for word in ("--policy", str(policy))]
        return words

    def step(self, text: str, done: int) -> None:
        self.report_step(text, done, 2 + len(self.policies))

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Keeps the wall time of a block under ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def capture(
        self,
        model: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        mode: Any,
        compiler: Compiler | None = None,
    ) -> dict[Policy, list[PostGrad]]:
        """The model's graphs, for each policy."""
        from ..inductor.offline.capture import capture_for

        self.step("capturing its graphs", 1)
        with self.clock("capture"):
            return capture_for(
                self.policies,
                model,
                args,
                kwargs,
                self.device,
                mode,
                self.tracing,
                training=self.training,
                compiler=compiler,
                with_curve=self.prices,
            )

    def explanation(
        self,
        target: str,
        graphs: dict[Policy, list[PostGrad]],
        unit_bytes: int = 0,
        size: dict[str, int | None] | None = None,
        command: tuple[str, ...] = (),
    ) -> Explanation:
        """Lowers every graph under every policy, on trial; with what was decided, and why."""
        outcomes: dict[str, list[Outcome]] = {}
        codes: dict[str, list[Code]] = {}
        for number, policy in enumerate(self.policies):
            self.step(f"scheduling it under {policy}", 2 + number)
            name = str(policy)
            with self.clock(name):
                outcomes[name] = [self._dry_run(g, policy) for g in graphs[policy]]
            if self.code:
                with self.clock(f"code of {name}"):
                    codes[name] = [
                        self._code(g, policy, outcome)
                        for g, outcome in zip(graphs[policy], outcomes[name], strict=True)
                    ]
        with self.clock("explain"):
            explained = tuple(
                self._explained(place, graphs, outcomes, codes)
                for place in range(len(outcomes[self.priced]))
            )
        self.step("done", 2 + len(self.policies))
        return Explanation(
            target=target,
            device=self.device.name,
            policies=tuple(outcomes),
            priced=self.priced,
            graphs=explained,
            unit_bytes=unit_bytes,
            balance=limits_for(self.device).balance,
            seconds=self.seconds,
            versions=installed_versions(),
            size=size or {},
            tracing=self.tracing,
            prices=self.prices,
            lines=lines_of(explained),
            command=command,
        )

    def _explained(
        self,
        place: int,
        graphs: dict[Policy, list[PostGrad]],
        outcomes: dict[str, list[Outcome]],
        codes: dict[str, list[Code]],
    ) -> ExplainedGraph:
        from ..inductor.explain.build import explained

        return explained(
            {str(policy): found[place] for policy, found in graphs.items()},
            {policy: found[place] for policy, found in outcomes.items()},
            self.priced,
            {policy: found[place] for policy, found in codes.items()},
            with_prices=self.prices,
            fitted=self.device.fitted,
        )

    def _dry_run(self, graph: PostGrad, policy: Policy) -> Outcome:
        from ..inductor.offline.dry_run import dry_run

        with self._named("lower", graph, policy):
            return dry_run(graph, policy, self.device)

    def _code(self, graph: PostGrad, policy: Policy, outcome: Outcome) -> Code:
        from ..inductor.offline.code import code_of

        with self._named("generate code for", graph, policy, " Try it without the code."):
            return code_of(graph, policy, outcome, self.device)

    @contextlib.contextmanager
    def _named(self, what: str, graph: PostGrad, policy: Policy, then: str = "") -> Iterator[None]:
        """Inside the block, an error of Inductor's says what could not be done with which graph."""
        try:
            yield
        except MaterializeError:
            raise
        except Exception as error:
            raise CaptureError(
                f"Inductor could not {what} a graph of {graph.nodes} nodes for "
                f"{self.device.name} under {policy}: {brief(error)}.{then}"
            ) from error
