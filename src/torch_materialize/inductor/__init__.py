"""The only folder that imports ``torch._inductor``."""
