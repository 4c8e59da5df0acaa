"""``import torch_materialize.auto``: enable for a whole program from its environment.

``TORCH_MATERIALIZE=traffic python -c 'import torch_materialize.auto; ...'``.  ``1`` is the default
policy; unset, empty, ``0``, ``off`` or ``stock`` leave Inductor as it is.  This never raises:
a misspelt policy or a torch that we do not know is logged once and stock stays.
"""

from __future__ import annotations

from .environment import POLICY_VARIABLE, enable_from_environment

__all__ = ["POLICY_VARIABLE", "handle"]

#: The handle of the policy that the environment names, None where it names none or that failed.
handle = enable_from_environment("stock")
