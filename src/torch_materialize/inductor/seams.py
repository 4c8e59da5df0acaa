"""The one table of upstream objects that we lean on; tests and ``doctor`` read it.

Each row says what the object is used for, which digests of it were looked at and in which
torch, and when the row can go.  A torch is supported when every row that a feature needs is
there and has a known digest; no version number is compared anywhere.

``python -m torch_materialize.inductor.seams`` prints the digests of the installed torch, for
whoever has read what changed and appends them here.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..core.mismatch import Mismatch
from ..errors import UnsupportedTorchError
from .digest import body_digest, signature_digest

__all__ = ["OURS", "SEAMS", "Seam", "Use", "by_path", "check", "require"]


#: Attribute of our own wrappers that names the seam they stand at.
OURS = "__torch_materialize__"


class Use(str, Enum):
    """How we lean on an object; decides what is digested."""

    REPLACED = "replaced"  # the whole body: we stand in for it or build on its exact reasons
    CALLED = "called"  # the parameters
    SETTING = "setting"  # that it exists
    ANSWERED = "answered"  # that it exists; we answer in its place for a planned GPU


@dataclass(frozen=True)
class Seam:
    """One upstream object.

    Attributes:
        path: ``module:qualified.name``.
        use: how we lean on it.
        why: what for.
        until: the condition under which this row can be removed.
        features: ``policy`` (enable, options) and/or ``compare``.
        digests: digest -> the torch versions in which it was seen and read.
        optional: whether its absence is fine (it came with a later torch).
    """

    path: str
    use: Use
    why: str
    until: str
    features: tuple[str, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False

    def owner(self) -> tuple[Any, str]:
        """The object that holds the attribute, and the attribute's name.

        Raises:
            ImportError, AttributeError: some part of the path is missing.
        """
        module, _, qualified = self.path.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = qualified.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name

    def resolve(self) -> Any:
        """The object itself.

        Raises:
            ImportError, AttributeError: it is missing.
        """
        owner, name = self.owner()
        return getattr(owner, name)

    def upstream(self) -> Any:
        """The object without our own wrapper around it.

        Raises:
            ImportError, AttributeError: it is missing.
        """
        found = self.resolve()
        return found.__wrapped__ if getattr(found, OURS, None) == self.path else found

    def digest(self) -> str:
        """Digest of the installed object, "" where only its existence counts.

        Raises:
            ImportError, AttributeError: it is missing.
            OSError, TypeError: its source cannot be read.
        """
        found = self.upstream()
        if self.use is Use.REPLACED:
            return body_digest(found)
        if self.use is Use.CALLED:
            return signature_digest(found)
        return ""

    def replaced_by(self) -> str | None:
        """Somebody else's function that stands in upstream's place; None where nobody's does.

        Raises:
            ImportError, AttributeError: the object is missing.
        """
        found = self.upstream()
        code = getattr(found, "__code__", None)
        module = importlib.import_module(self.path.partition(":")[0])
        if code is None or code.co_filename == module.__file__:
            return None
        return f"{found.__module__}.{found.__qualname__} ({code.co_filename})"

    def check(self) -> Mismatch | None:
        """None when the installed object is one that was looked at."""
        try:
            other = self.replaced_by() if self.use is Use.REPLACED else None
            digest = self.digest()
        except (ImportError, AttributeError) as error:
            return None if self.optional else self._mismatch(f"nothing ({error})")
        except (OSError, TypeError) as error:
            return self._mismatch(f"{other or 'an object'} without readable source ({error})")
        if not self.digests or digest in self.digests:
            return None
        return self._mismatch(f"digest {digest}" + (f" of {other}" if other else ""))

    def _mismatch(self, found: str) -> Mismatch:
        known = ", ".join(f"{d} (torch {v})" for d, v in self.digests.items())
        return Mismatch(self.path, f"digest {known}" if known else "this object", found)


_POLICY = ("policy",)
_COMPARE = ("compare",)
_RULE_GONE = "Inductor ships a cost model at this place that is no worse"
_CALLABLE = "the code that calls it goes"

SEAMS: tuple[Seam, ...] = (
    Seam(
        "torch._inductor.ir:StorageBox.should_realize_on_reuse",
        Use.REPLACED,
        "the choice itself: policy `traffic` answers here",
        _RULE_GONE,
        _POLICY,
        {
            "884d1e7671679ddf": "2.11 to 2.12",
            "074fc6e5720e2128": "2.13",
            "1ff57cde6574294c": "2.14 to 2.15",
        },
    ),
    Seam(
        "torch._inductor.ir:StorageBox.has_large_inner_fn",
        Use.CALLED,
        "step 2 of the rule: large bodies are materialized",
        _RULE_GONE,
        _POLICY,
        {"bec9dc2ba11f5951": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.num_reads",
        Use.CALLED,
        "step 4 of the rule: the read count where a size is unknown",
        _RULE_GONE,
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.ir:StorageBox.get_reads",
        Use.CALLED,
        "step 3 of the rule: what an inlined tensor reads",
        _RULE_GONE,
        _POLICY,
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.get_dep_size_hint",
        Use.CALLED,
        "step 3 of the rule: bytes of one read",
        _RULE_GONE,
        _POLICY,
        {"ad1c04e59413c758": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.sizevars:SizeVarAllocator.optimization_hint",
        Use.CALLED,
        "sizes under dynamic shapes",
        _CALLABLE,
        ("policy", "compare"),
        {"e2a3b4e1483beb0c": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.config:realize_reads_threshold",
        Use.SETTING,
        "step 4 of the rule",
        _RULE_GONE,
        _POLICY,
    ),
    Seam(
        "torch._inductor.config:post_grad_custom_post_pass",
        Use.SETTING,
        "carries the policy into a compile and its cache keys (sanctioned)",
        "Inductor has a setting for the policy",
        _POLICY,
    ),
    Seam(
        "torch._inductor.custom_graph_pass:CustomGraphPass",
        Use.SETTING,
        "base class of the pass that carries the policy (sanctioned)",
        "Inductor has a setting for the policy",
        _POLICY,
    ),
    Seam(
        "torch._inductor.custom_graph_pass:CustomInferenceAwareGraphPass",
        Use.SETTING,
        "lets our pass hand `is_inference` on to the passes that it chains",
        "Inductor has a setting for the policy",
        _POLICY,
        optional=True,
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.run",
        Use.CALLED,
        "wrapped: counting rules are out of reach while a planned graph is lowered",
        "the counting rules can be set for one graph",
        _POLICY,
        {"4aa0d42183908d7d": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.run_node",
        Use.CALLED,
        "extended in a subclass, to remember what each FX node became",
        "Inductor keeps a node's result after lowering",
        ("policy", "compare"),
        {"e26027530bc06648": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:compile_fx",
        Use.CALLED,
        "wrapped: one compile, forward and backward, gets the policy of its thread",
        "config set in one thread reaches compiles in all, and chains with what others set",
        ("policy", "compare"),
        {"31516129ba96f949": "2.11", "3f2e3a3737f64e41": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.fx_passes.joint_graph:pointless_convert",
        Use.REPLACED,
        "tells whether narrowing casts must be held back from it (`plan`, torch 2.11, 2.12)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
        {"eccba58e28deacd0": "2.11 to 2.12", "2aec89eb062d96eb": "2.13 to 2.15"},
    ),
    Seam(
        "torch._inductor.config:joint_custom_pre_pass",
        Use.SETTING,
        "hides narrowing casts from pointless_convert (sanctioned)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
    ),
    Seam(
        "torch._inductor.config:joint_custom_post_pass",
        Use.SETTING,
        "shows the hidden casts again (sanctioned)",
        "no supported torch folds a cast that narrows and widens again",
        _POLICY,
    ),
    Seam(
        "torch._inductor.compile_fx:fx_compile_mode",
        Use.SETTING,
        "tells out-of-process compiles, which the policy does not reach",
        "custom passes travel to out-of-process compiles",
        _POLICY,
    ),
    Seam(
        "torch._inductor.compile_fx:_recursive_post_grad_passes",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"d825255ea2814dd3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.fx_passes.post_grad:view_to_reshape",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"ece80a8b072b4f8b": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:record_original_output_strides",
        Use.CALLED,
        "from a captured graph to the post-grad graph",
        _CALLABLE,
        _COMPARE,
        {"ece80a8b072b4f8b": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.compile_fx:select_decomp_table",
        Use.CALLED,
        "decompositions for graphs traced without Dynamo",
        _CALLABLE,
        _COMPARE,
        {"6a69567a08edb7be": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering.__init__",
        Use.CALLED,
        "wrapped: policy `plan` plans here, where the graph is what will be lowered",
        "Inductor has a pass that runs last before lowering",
        ("policy", "compare"),
        {"55e610e55c9bbd26": "2.11", "3fd9e245a4c7c372": "2.12 to 2.15"},
    ),
    Seam(
        "torch._inductor.graph:GraphLowering._update_scheduler",
        Use.CALLED,
        "dry run: scheduling and fusion without code generation",
        "Inductor has a public call that schedules and stops",
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.normalize",
        Use.CALLED,
        "the same read under other loops counts once",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.dependencies:MemoryDep.is_indirect",
        Use.CALLED,
        "gathers are counted by accesses",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_nodes",
        Use.CALLED,
        "what one kernel fuses",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.scheduler:BaseSchedulerNode.get_outputs",
        Use.CALLED,
        "what one kernel writes, and for whom",
        _CALLABLE,
        ("policy", "compare"),
        {"ce66be8890a3dcb3": "2.11 to 2.15"},
    ),
    Seam(
        "torch._inductor.runtime.hints:DeviceProperties",
        Use.ANSWERED,
        "device properties of a GPU that is not there",
        "Inductor takes device properties as an argument",
        _COMPARE,
    ),
    Seam(
        "torch._subclasses.fake_tensor:init_gpu_context",
        Use.ANSWERED,
        "fake CUDA tensors without a driver",
        "fake tensors no longer initialize CUDA",
        _COMPARE,
    ),
    Seam(
        "torch._C:_conv_determine_backend_memory_format",
        Use.ANSWERED,
        "layout of convolutions on a GPU that is not there",
        "Inductor's layout of convolutions can be asked by device",
        _COMPARE,
    ),
    Seam(
        "torch._C:_select_conv_backend",
        Use.ANSWERED,
        "layout of convolutions on a GPU that is not there",
        "Inductor's layout of convolutions can be asked by device",
        _COMPARE,
    ),
    Seam(
        "torch.utils._triton:has_triton",
        Use.ANSWERED,
        "its remembered answer is dropped around a dry run",
        "has_triton takes a device",
        _COMPARE,
    ),
)


@functools.cache
def _index() -> dict[str, Seam]:
    return {seam.path: seam for seam in SEAMS}


def by_path(path: str) -> Seam:
    """The row of one object.

    Raises:
        KeyError: the table has no such row.
    """
    return _index()[path]


def check(feature: str) -> list[Mismatch]:
    """Every mismatch among the rows that ``feature`` needs; empty when it can work."""
    found = (seam.check() for seam in SEAMS if feature in seam.features)
    return [mismatch for mismatch in found if mismatch is not None]


def require(feature: str) -> None:
    """Checks that this torch can do what ``feature`` needs.

    Raises:
        UnsupportedTorchError: it cannot; the error lists every object that stands in the way.
    """
    import torch

    mismatches = check(feature)
    if mismatches:
        raise UnsupportedTorchError(mismatches, torch.__version__)


def _print_digests() -> None:
    import torch

    for seam in SEAMS:
        try:
            digest = seam.digest()
        except (ImportError, AttributeError) as error:
            digest = f"missing: {error}"
        if digest:
            sys.stdout.write(f"{torch.__version__}\t{seam.path}\t{digest}\n")


if __name__ == "__main__":
    _print_digests()
