"""Plan files of a target: made and written, or checked against what was claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.devices import HERE, find
from ..core.policy import DEFAULT_POLICY, Policy, parse
from ..errors import (
    CaptureError,
    MaterializeError,
    RecordError,
    UnknownPolicyError,
    brief,
)
from ..models.names import Size
from ..results.base import write_whole
from ..results.plan_claims import CLAIMS, Claims, Growth, claims_path, growths
from ..results.plan_file import PlanFile, Plans, in_folder, save
from ..sweep.collection import graph_name
from ..versions import implementation, installed_versions
from .explain import Step, build, check_words

if TYPE_CHECKING:
    from ..core.devices import Device
    from ..inductor.fx.post_grad import PostGrad
    from ..results.plan_claims import GraphClaim

__all__ = ["Planned", "check_target", "plan_target", "the_policy", "write"]


@dataclass(frozen=True)
class Planned:
    """The plan files of one target, and what it claims with them."""

    plans: tuple[PlanFile, ...]
    claims: Claims


def the_policy(policies: Sequence[str]) -> Policy:
    """The policy whose plans are wanted: `plan`, unless one is named.

    Raises:
        UnknownPolicyError: it is misspelt, there are several, or it makes no plans.
    """
    chosen = [parse(policy) for policy in policies or (DEFAULT_POLICY,)]
    if len(chosen) > 1 or chosen[0].name != "plan":
        raise UnknownPolicyError(
            "plan files are of one policy: expected `plan`, with settings if any "
            f"(plan:numerics=eager); found {', '.join(map(str, chosen))}."
        )
    return chosen[0]


def plan_target(
    target: str,
    policy: Policy,
    device: str,
    *,
    tokens: int = 8192,
    batch: int = 1,
    layers: int | None = None,
    tracing: str = "dynamo",
    training: bool = False,
    known: Plans | None = None,
    dump: Path | None = None,
    step: Step = lambda _text, _done, _all: None,
) -> Planned:
    """Captures the graphs of a target and plans each for a device, which need not be there.

    What is ``known`` of a graph and comes to what it claims is not searched again.  ``dump`` is a
    folder in which each graph is left as text.  The rest is as for
    :func:`.explain.explain_target`.

    Raises:
        TargetError: no such target or device.
        CaptureError: the target cannot be traced or lowered.
        UnsupportedTorchError: this torch cannot lower a graph on trial.
    """
    check_words(target, (policy,), device)
    if device not in HERE:
        find(device)
    from ..inductor.contract import seams
    from ..inductor.offline.capture import capture
    from ..inductor.offline.fx_writing import text_of
    from ..inductor.read.at_hand import device_named

    place = device_named(device)
    seams.require("compare")
    size = Size(tokens, batch, layers)
    step(f"building {target}", 0, 2)
    built, mode = build(target, training, size)
    step("capturing its graphs", 1, 2)
    graphs = capture(
        built.model,
        built.args,
        built.kwargs,
        place,
        mode,
        tracing,
        training=training,
        policy=policy,
        compiler=built.compiler,
    )
    plans, claims = [], []
    counts: Counter[tuple[str, str]] = Counter()
    for number, graph in enumerate(graphs):
        step(f"planning graph {number + 1} of {len(graphs)}", 2 + number, 2 + len(graphs))
        plan, claim = _planned(graph, policy, place, known, counts)
        plans.append(plan)
        claims.append(claim)
        if dump is not None:
            path = dump / graph_name(target, plan.kind, claim.index)
            write_whole(path, text_of(graph).encode())
    sizes = vars(size) if built.unit_bytes else {}
    return Planned(
        tuple(plans),
        Claims(
            target=target,
            device=place.name,
            policy=str(policy),
            graphs=tuple(claims),
            size={**sizes, "tracing": tracing, "mode": "training" if training else "inference"},
            versions={**installed_versions(), "torch-materialize": implementation()},
        ),
    )


def _planned(
    graph: PostGrad,
    policy: Policy,
    device: Device,
    known: Plans | None,
    counts: Counter[tuple[str, str]],
) -> tuple[PlanFile, GraphClaim]:
    from ..inductor.offline.plan_making import claimed, plan_of

    try:
        plan, kernels = plan_of(graph, policy, device, known)
    except MaterializeError:
        raise
    except Exception as error:
        raise CaptureError(
            f"Inductor could not lower a graph of {graph.nodes} nodes for {device.name} under "
            f"{policy}: {brief(error)}."
        ) from error
    place = graph.kind, graph.caller
    index = counts[place]
    counts[place] += 1
    return plan, claimed(graph, plan, kernels, index)


def write(planned: Planned, folder: Path) -> list[Path]:
    """Writes the plan files and the claims of a target; returns where.

    Raises:
        OSError: the folder cannot be made or written.
    """
    claims = planned.claims
    paths = [save(plan, folder) for plan in planned.plans]
    training = claims.size.get("mode") == "training"
    paths.append(claims_path(folder, claims.target, claims.device, training=training))
    CLAIMS.save(claims, paths[-1])
    return paths


def check_target(
    target: str, policy: Policy, device: str, folder: Path, **how: object
) -> list[Growth]:
    """Where a target moves more bytes than its claims in ``folder`` say.

    ``how`` is what :func:`plan_target` takes.

    Raises:
        RecordError: there are no such claims, they cannot be read, or are of other options.
        TargetError, CaptureError, UnsupportedTorchError: as for :func:`plan_target`.
    """
    check_words(target, (policy,), device)
    training = bool(how.get("training", False))
    path = claims_path(folder, target, _short(device), training=training)
    if not path.is_file():
        raise RecordError(
            f"{path}: there are no claims of {target} on {device}. Write them with the same "
            f"options: torch-materialize plan {target} --device {device} -o {folder}"
        )
    before = CLAIMS.load(path)
    now = plan_target(target, policy, device, known=in_folder(folder), **how)  # type: ignore[arg-type]
    return list(growths(before, now.claims))


def _short(device: str) -> str:
    if device not in HERE:
        return find(device).name
    from ..inductor.read.at_hand import device_named

    return device_named(device).name
