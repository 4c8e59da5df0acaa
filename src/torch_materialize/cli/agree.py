"""``torch-materialize agree``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..core.ways import AGREEING, CUT_NAMES, RUNS_ON
from .options import file_to_write, named_policies, rows, saving, verbose
from .progress import hush_upstream, steps

__all__ = ["agree_command"]


@click.command("agree")
@click.argument("target")
@named_policies(f"Policies beside stock. Default: {', '.join(AGREEING)}.")
@click.option(
    "--device",
    default=RUNS_ON[0],
    show_default=True,
    help=f"Where it runs: {RUNS_ON[0]}, or {RUNS_ON[1]}: this machine's GPU. A planned GPU (h200, "
    "say): the Triton code for it is interpreted on the CPU.",
)
@click.option("--training", is_flag=True, help="Also the backward: compares gradients, too.")
@click.option(
    "--cut",
    type=click.Choice(CUT_NAMES),
    default=CUT_NAMES[0],
    show_default=True,
    help="What stands between pieces; any: the first of the rest that the model has.",
)
@click.option(
    "--tokens",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Length of the input of a built-in model.",
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1))
@click.option("--layers", type=click.IntRange(1), help="Layers of a built-in model. Default: 2.")
@click.option(
    "--rounds",
    default=15,
    show_default=True,
    type=click.IntRange(0),
    help="How often each way is timed, in turns; 0: not at all.",
)
@click.option(
    "--where/--no-where",
    default=True,
    help="Look for the operator where a difference arises, which compiles parts of the model.",
)
@rows()
@verbose("Also the tensors that differ.")
@file_to_write("--json", "Also write the record (docs/record.md) to this file.")
def agree_command(target: str, top: int, verbose: bool, json_path: Path | None, **how: Any) -> None:
    """Run TARGET eagerly and compiled, whole and in pieces, and say what agrees bit for bit.

    The verdict comes first: which policies give eager's bits, then how far the others are, the
    time of each beside stock's, and the operator where the first difference arises.

    TARGET is FILE.py:FUNCTION or MODULE:FUNCTION, a function without parameters that returns a
    module or callable and its example inputs, with weights and values: it is run. Or it is a
    built-in model, run small with random weights: language (our own, its attention opaque to the
    compiler), llama-3.1-8b, qwen3-30b-a3b, gpt2, bert-base, t5-base, fused-add-rmsnorm,
    fused-add-rmsnorm-hf.

    With --training the loss is what the model returns as `loss`, or the mean square of its first
    floating output.
    """
    from ..jobs.agree import agree_target, check_agree_words
    from ..report.agreement import print_agreement
    from ..results.agreement import AGREEMENT

    policies = how.pop("policies") or AGREEING
    check_agree_words(target, policies, how["device"])
    hush_upstream()
    with steps() as step:
        found = agree_target(target, policies, step=step, **how)
    print_agreement(found, Console(), top, verbose)
    if json_path is not None:
        with saving(json_path):
            AGREEMENT.save(found, json_path)
