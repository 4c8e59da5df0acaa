"""How far a result may be from the exact one: running error bounds in fp64.

A program is traced, its backward too, into the operators that Inductor decomposes it to; each
is then computed in fp64 together with a bound on what any evaluation may be off by that rounds
each operator's result at most once to its dtype and computes in fp32 (fp64 where the data is)
in between, in any order of summation.  Eager rounds at some of these places, stock at others,
a plan at others again: all must lie within the bound.  Where to round is free, how often is not.

Source: running error analysis, Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
section 3.3; for the variance Chan, Golub and LeVeque (1983).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

__all__ = ["Bounded", "bounded", "unit_roundoff"]

# Rounding errors of one operator in the precision that it is computed in: an elementary
# function is within 1 unit in the last place (2 roundoffs) in every library that is used, and
# is put together from a few operations.
_INTERNAL = 8
_DOUBLE, _SINGLE = 2.0**-53, 2.0**-24


class Bounded(NamedTuple):
    """An exact value (fp64; integers and masks as they are), and how far one may be from it."""

    value: torch.Tensor
    error: torch.Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to nearest in a floating dtype."""
    return float(torch.finfo(dtype).eps) / 2


def bounded(function: Callable[..., Any], arguments: Sequence[torch.Tensor]) -> list[Bounded]:
    """Each tensor that ``function`` returns, exactly, with its bound.

    Raises:
        NotImplementedError: an operator has no rule here.
    """
    given = [x.detach().clone().requires_grad_(x.requires_grad) for x in arguments]
    graph = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(
        *given
    )
    exact = [Bounded(_wide(x.detach().clone()), _nothing(x)) for x in arguments]
    found = _Run(graph).run(*exact)
    return [x for x in pytree.tree_leaves(found, is_leaf=_is_bounded) if _is_bounded(x)]


def _is_bounded(x: Any) -> bool:
    return isinstance(x, Bounded)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.dtype.is_floating_point else x


def _nothing(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(x.shape, dtype=torch.float64)


class _Run(torch.fx.Interpreter):
    """Runs a traced graph on bounded values; views stay views, writes in place write both."""

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op == "get_attr":
            constant = super().run_node(n)
            return Bounded(_wide(constant), _nothing(constant))
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target is operator.getitem:
            return args[0][args[1]]
        if not any(_is_bounded(x) for x in pytree.tree_leaves((args, kwargs), is_leaf=_is_bounded)):
            made = n.target(*args, **_on_cpu(kwargs))
            return pytree.tree_map_only(
                torch.Tensor, lambda t: Bounded(_wide(t), _nothing(t)), made
            )
        return _apply(n, args, kwargs)


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k != "pin_memory"}


def _apply(n: torch.fx.Node, args: Any, kwargs: Any) -> Any:
    target: Any = n.target
    name = target._schema.name.split("::")[1]
    if name == "copy_":
        into, source = args[0], args[1]
        rounded = _round(_cast(source, into.value), n.meta["val"].dtype)
        into.value.copy_(rounded.value)
        into.error.copy_(rounded.error)
        return into
    if name.endswith("_") and not name.startswith("_"):
        out_of_place = getattr(getattr(torch.ops.aten, name[:-1]), target._overloadname)
        changed = _computed(n, name[:-1], out_of_place, args, kwargs)
        args[0].value.copy_(changed.value)
        args[0].error.copy_(changed.error)
        return args[0]
    return _computed(n, name, target, args, kwargs)


def _computed(n: torch.fx.Node, name: str, target: Any, args: Any, kwargs: Any) -> Any:
    if name in _MOVES:
        return _move(target, args, kwargs)
    rule = _RULES.get(name)
    if rule is None:
        raise NotImplementedError(f"no bound for {target}")
    if name in _PROMOTING:
        args = [_promoted(x, made_by, n) for x, made_by in zip(args, n.args, strict=True)]
    result = rule(target, args, kwargs)
    if name in _EXACT:
        return result
    if isinstance(result, tuple) and not _is_bounded(result):
        dtypes = [x.dtype for x in n.meta["val"]]
        return tuple(_round(x, dtype) for x, dtype in zip(result, dtypes, strict=True))
    return _round(result, n.meta["val"].dtype)


def _promoted(x: Any, made_by: Any, n: torch.fx.Node) -> Any:
    """An operand as eager casts it: to the dtype of the result, where it is of another one."""
    dtype = n.meta["val"].dtype
    if not _is_bounded(x) or not dtype.is_floating_point:
        return x
    if made_by.meta["val"].dtype in (dtype, torch.bool):
        return x
    return _round(Bounded(x.value.double(), x.error), dtype)


def _cast(source: Bounded, like: torch.Tensor) -> Bounded:
    """A value in the dtype of another; what becomes an integer is truncated."""
    if like.dtype.is_floating_point or not source.value.dtype.is_floating_point:
        value = source.value.to(like.dtype, copy=True)
        if like.dtype == torch.bool:
            near = (source.value.double().abs() <= source.error) & (source.error > 0)
            return Bounded(value, near.double())
        return Bounded(value, source.error.clone())
    if like.dtype == torch.bool:
        near = (source.value.abs() <= source.error) & (source.error > 0)
        return Bounded(source.value != 0, near.double())
    return Bounded(source.value.to(like.dtype), _spread(torch.trunc, source))


def _round(result: Bounded, dtype: torch.dtype) -> Bounded:
    """Adds the roundings of one operator."""
    value, error = result
    if not dtype.is_floating_point:
        return result
    internal = _DOUBLE if dtype == torch.float64 else _SINGLE
    times = _INTERNAL * internal + (unit_roundoff(dtype) if dtype.itemsize < 4 else 0.0)
    size = value.abs() + error
    info = torch.finfo(dtype)
    error = error + times * size + info.smallest_normal * times
    # Out of range, or no number: nothing is promised.
    lost = ~torch.isfinite(size) | (size >= info.max)
    return Bounded(value, torch.where(lost, torch.inf, error))


# Rules.  Each gives the exact result and the error that its arguments bring along.


def _move(target: Any, args: Any, kwargs: Any) -> Bounded:
    """The same numbers elsewhere."""

    def part(which: str) -> Any:
        def pick(x: Any) -> Any:
            if not _is_bounded(x):
                return x
            chosen = getattr(x, which)
            # Indices and masks stay what they are.
            return x.value if not x.value.dtype.is_floating_point else chosen

        return pytree.tree_map(pick, (args, kwargs), is_leaf=_is_bounded)

    values, named = part("value")
    errors, named_errors = part("error")
    value = target(*values, **named)
    if isinstance(value, list | tuple):  # several views of one tensor
        errors = target(args[0].error, *args[1:], **kwargs)
        return [Bounded(*pair) for pair in zip(value, errors, strict=True)]
    if not value.dtype.is_floating_point:
        source = next(x for x in pytree.tree_leaves(args, is_leaf=_is_bounded) if _is_bounded(x))
        if not bool(source.error.any()):
            return Bounded(value, torch.zeros(value.shape, dtype=torch.float64))
        errors = pytree.tree_map(
            lambda x: x.error if _is_bounded(x) else x, args, is_leaf=_is_bounded
        )
    return Bounded(value, target(*errors, **named_errors))


def _v(x: Any) -> Any:
    return x.value if _is_bounded(x) else x


def _e(x: Any) -> Any:
    return x.error if _is_bounded(x) else 0.0


def _size(x: Any) -> Any:
    return _v(x).double().abs() if _is_bounded(x) else abs(float(x))


def _zeros(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(x.shape, dtype=torch.float64)


def _spread(function: Callable[[torch.Tensor], torch.Tensor], x: Bounded) -> torch.Tensor:
    """Largest change of a monotone function (or of one with one extremum, at 0)."""
    here = function(x.value)
    up, down = function(x.value + x.error), function(x.value - x.error)
    change = torch.maximum((up - here).abs(), (down - here).abs()).double()
    return torch.where(torch.isnan(change), torch.inf, change)


def _monotone(target: Any, args: Any, kwargs: Any) -> Bounded:
    x, *rest = args
    if not x.value.dtype.is_floating_point:
        x = Bounded(x.value.double(), x.error)
    return Bounded(
        target(x.value, *rest, **kwargs), _spread(lambda v: target(v, *rest, **kwargs), x)
    )


def _pole(target: Any, args: Any, kwargs: Any) -> Bounded:
    """Monotone on each side of 0, where it has a pole."""
    value, error = _monotone(target, args, kwargs)
    return Bounded(value, torch.where(_size(args[0]) <= args[0].error, torch.inf, error))


def _lipschitz(target: Any, args: Any, kwargs: Any) -> Bounded:
    return Bounded(target(args[0].value, **kwargs), args[0].error)


def _sum_of_two(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args[:2]
    value = target(_v(a), _v(b), **kwargs)
    return Bounded(value, _e(a) + abs(kwargs.get("alpha", 1)) * _e(b) + _zeros(value))


def _product(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args
    value = target(_v(a), _v(b))
    return Bounded(value, _size(a) * _e(b) + _size(b) * _e(a) + _e(a) * _e(b) + _zeros(value))


def _quotient(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args
    value = target(_v(a), _v(b), **kwargs)
    if not value.dtype.is_floating_point:
        return Bounded(value, _zeros(value))
    least = torch.as_tensor(_size(b) - _e(b), dtype=torch.float64)
    error = (_e(a) + value.abs() * _e(b)) / least
    return Bounded(value, torch.where(least <= 0, torch.inf, error + _zeros(value)))


def _larger(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args
    value = target(_v(a), _v(b))
    return Bounded(value, torch.maximum(*torch.broadcast_tensors(_te(a), _te(b))) + _zeros(value))


def _te(x: Any) -> torch.Tensor:
    return torch.as_tensor(_e(x), dtype=torch.float64)


def _compared(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args
    value = target(_v(a), _v(b))
    slack = _te(a) + _te(b)
    gap = torch.as_tensor(_v(a), dtype=torch.float64) - torch.as_tensor(_v(b), dtype=torch.float64)
    return Bounded(value, ((gap.abs() <= slack) & (slack > 0)).double() + _zeros(value))


def _logic(target: Any, args: Any, kwargs: Any) -> Bounded:
    value = target(*(_v(x) for x in args), **kwargs)
    return Bounded(value, sum(_te(x) for x in args) + _zeros(value))


def _any(target: Any, args: Any, kwargs: Any) -> Bounded:
    """Over everything or some dimensions; unknown where one of the elements is."""
    x, *dims = args
    unknown = target(x.error > 0, *dims, **kwargs)
    return Bounded(target(x.value, *dims, **kwargs), unknown.double())


def _where(target: Any, args: Any, kwargs: Any) -> Bounded:
    mask, a, b = args
    value = target(_v(mask), _v(a), _v(b))
    error = torch.where(_v(mask), _te(a), _te(b))
    either = (torch.as_tensor(_v(a)).double() - torch.as_tensor(_v(b)).double()).abs()
    either = either + _te(a) + _te(b)
    return Bounded(value, torch.where(_te(mask) > 0, either, error) + _zeros(value))


def _converted(target: Any, args: Any, kwargs: Any) -> Bounded:
    x = args[0]
    dtype = kwargs.get("dtype") or (args[1] if len(args) > 1 else None) or x.value.dtype
    wide = torch.float64 if dtype.is_floating_point else dtype
    return _cast(x, torch.empty((), dtype=wide))


def _precision(x: Bounded, dtype: torch.dtype) -> float:
    return _DOUBLE if dtype == torch.float64 else _SINGLE


def _summed(target: Any, args: Any, kwargs: Any) -> Bounded:
    """Sums and means: in fp32 at least, in any order."""
    x = args[0]
    value = target(x.value, *args[1:], **_as_wide(kwargs))
    if not value.dtype.is_floating_point:
        return Bounded(
            value,
            target(x.error, *args[1:], **_as_wide(kwargs)) if x.error.any() else _zeros(value),
        )
    terms = max(x.value.numel() // max(value.numel(), 1), 1)
    errors = target(x.error, *args[1:], **_as_wide(kwargs))
    sizes = target(x.value.abs().double() + x.error, *args[1:], **_as_wide(kwargs))
    return Bounded(value, errors + terms * _SINGLE * sizes)


def _scanned(target: Any, args: Any, kwargs: Any) -> Bounded:
    """Running sums; eager and Inductor both keep them in the dtype of the data or wider."""
    x = args[0]
    value = target(x.value, *args[1:], **_as_wide(kwargs))
    if not value.dtype.is_floating_point:
        return Bounded(value, _zeros(value))
    errors, sizes = (target(v, *args[1:]) for v in (x.error, x.value.abs() + x.error))
    return Bounded(value, errors + x.value.shape[args[1]] * _SINGLE * sizes)


def _as_wide(kwargs: Any) -> Any:
    return {
        k: torch.float64 if isinstance(v, torch.dtype) and v.is_floating_point else v
        for k, v in kwargs.items()
    }


def _maximum_of(target: Any, args: Any, kwargs: Any) -> Bounded:
    x = args[0]
    value = target(x.value, *args[1:], **kwargs)
    return Bounded(value, torch.amax(x.error, *args[1:], **kwargs))


def _index_of_maximum(target: Any, args: Any, kwargs: Any) -> Bounded:
    x = args[0]
    value = target(x.value, *args[1:], **kwargs)
    return Bounded(value, torch.full(value.shape, torch.inf if x.error.any() else 0.0).double())


def _variance(target: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    dims = args[1] if len(args) > 1 else None
    # From fp64 data torch computes the same; only its bound is put together here.
    keep = {**kwargs}
    keep.pop("correction", None)
    keep["keepdim"] = True
    mean = x.value.mean(dims, keepdim=True)
    mean_error = x.error.mean(dims, keepdim=True)
    terms = x.value.numel() // mean.numel()
    d, d_error = (x.value - mean).abs(), x.error + mean_error
    count = terms - (1 if kwargs.get("correction") is None else kwargs["correction"])
    spread = (2 * d * d_error + d_error**2).sum(dims, keepdim=True)
    squares, deviations = (x.value**2).sum(dims, keepdim=True), (d**2).sum(dims, keepdim=True)
    lost = 4 * terms * _SINGLE * (squares * deviations).sqrt() + (terms * _SINGLE) ** 2 * squares
    error = (spread + lost) / count
    found = target(x.value, *args[1:], **kwargs)
    if isinstance(found, tuple):
        mean_error = mean_error + terms * _SINGLE * x.value.abs().mean(dims, keepdim=True)
        return (
            Bounded(found[0], error.reshape(found[0].shape)),
            Bounded(found[1], mean_error.reshape(found[1].shape)),
        )
    return Bounded(found, error.reshape(found.shape))


def _matmul(target: Any, args: Any, kwargs: Any) -> Bounded:
    a, b = args
    value = target(a.value, b.value)
    sizes = target(a.value.abs() + a.error, b.value.abs() + b.error)
    error = target(a.value.abs(), b.error) + target(a.error, b.value.abs() + b.error)
    return Bounded(value, error + a.value.shape[-1] * _SINGLE * sizes)


def _scattered(target: Any, args: Any, kwargs: Any) -> Bounded:
    """``index_put`` and ``scatter_add``: sums, one rounding to the dtype for each term."""
    plain = pytree.tree_map(_v, args, is_leaf=_is_bounded)
    value = target(*plain, **kwargs)

    def at(part: Callable[[Any], Any]) -> torch.Tensor:
        moved = pytree.tree_map(
            lambda x: part(x) if _is_bounded(x) and x.value.dtype.is_floating_point else _v(x),
            args,
            is_leaf=_is_bounded,
        )
        return target(*moved, **kwargs)

    return Bounded(value, at(_e) + _scatter_roundings(args) * at(lambda x: _size(x) + _e(x)))


def _scatter_roundings(args: Any) -> float:
    # At most this many terms meet in one place; each sum is rounded, in bf16 at worst.
    indices = next(
        x.value
        for x in pytree.tree_leaves(args, is_leaf=_is_bounded)
        if _is_bounded(x) and not x.value.dtype.is_floating_point and x.value.dtype != torch.bool
    )
    most = int(torch.bincount(indices.flatten()).max()) if indices.numel() else 0
    return most * unit_roundoff(torch.bfloat16)


def _powered(target: Any, args: Any, kwargs: Any) -> Bounded:
    x, exponent = args
    if not _is_bounded(x) or _is_bounded(exponent):
        raise NotImplementedError("a power of a tensor")
    rule = _pole if exponent < 0 else _monotone
    return rule(target, args, kwargs)


def _opaque_copy(target: Any, args: Any, kwargs: Any) -> Bounded:
    return Bounded(args[0].value.clone(), args[0].error.clone())


def _rounded_to_integer(target: Any, args: Any, kwargs: Any) -> Bounded:
    return _monotone(target, args, kwargs)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _names(
    """
    view _unsafe_view reshape permute t transpose expand unsqueeze squeeze slice select clone
    alias detach cat stack index index_select embedding gather slice_scatter select_scatter
    as_strided constant_pad_nd flip split split_with_sizes unbind lift_fresh_copy contiguous
    roll slice_backward select_backward copy diagonal _reshape_alias repeat view_as unfold rev
    broadcast_in_dim as_strided_scatter
    """
)
_PROMOTING = _names("add sub rsub mul div maximum minimum where")
_EXACT = _names(
    """
    neg abs relu maximum minimum amax amin where clamp clamp_min clamp_max sign sgn gt lt ge
    le eq ne logical_and logical_or logical_not bitwise_not bitwise_and bitwise_or any argmax
    opaque full_like zeros_like ones_like empty_like new_zeros new_full new_ones new_empty
    fill empty_strided new_empty_strided isnan signbit
    """
)


def _fresh(target: Any, args: Any, kwargs: Any) -> Bounded:
    """A new tensor of one number, whatever it is like."""
    plain = pytree.tree_map(_v, (args, kwargs), is_leaf=_is_bounded)
    value = _wide(target(*plain[0], **_on_cpu(_as_wide(plain[1]))))
    return Bounded(value, _zeros(value))


_RULES: dict[str, Callable[[Any, Any, Any], Any]] = {
    **dict.fromkeys(("add", "sub"), _sum_of_two),
    "rsub": lambda t, a, k: _sum_of_two(torch.sub, (a[1], a[0]), k),
    "mul": _product,
    "fma": lambda t, a, k: _sum_of_two(torch.add, (_product(torch.mul, a[:2], {}), a[2]), {}),
    "div": _quotient,
    "remainder": _logic,
    "fmod": _logic,
    "floor_divide": _logic,
    "square": lambda t, a, k: _product(torch.mul, (a[0], a[0]), {}),
    **dict.fromkeys(("sin", "cos", "neg", "abs"), _lipschitz),
    **dict.fromkeys(
        _names(
            """
            exp expm1 tanh sigmoid relu sqrt log log1p log2 erf sign sgn clamp clamp_min
            clamp_max floor ceil round trunc exp2
            """
        ),
        _monotone,
    ),
    **dict.fromkeys(("rsqrt", "reciprocal"), _pole),
    "pow": _powered,
    **dict.fromkeys(("maximum", "minimum"), _larger),
    **dict.fromkeys(_names("gt lt ge le eq ne"), _compared),
    **dict.fromkeys(
        _names(
            """
            logical_and logical_or logical_not bitwise_not bitwise_and bitwise_or isnan
            bitwise_xor logical_xor
            """
        ),
        _logic,
    ),
    "any": _any,
    "where": _where,
    **dict.fromkeys(("_to_copy", "convert_element_type"), _converted),
    **dict.fromkeys(("sum", "mean"), _summed),
    "cumsum": _scanned,
    **dict.fromkeys(("amax", "amin"), _maximum_of),
    "argmax": _index_of_maximum,
    **dict.fromkeys(("var", "var_mean"), _variance),
    **dict.fromkeys(("mm", "bmm", "dot", "mv"), _matmul),
    **dict.fromkeys(
        _names(
            """
            index_put _unsafe_index_put _unsafe_masked_index_put_accumulate scatter_add index_add
            embedding_dense_backward
            """
        ),
        _scattered,
    ),
    "opaque": _opaque_copy,
    **dict.fromkeys(
        _names(
            """
            full_like zeros_like ones_like empty_like new_zeros new_full new_ones new_empty
            new_empty_strided fill
            """
        ),
        _fresh,
    ),
}
