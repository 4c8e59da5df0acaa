"""PyTorch's own tests of Inductor, with stock and with a policy (``upstream_tests.py``)."""
