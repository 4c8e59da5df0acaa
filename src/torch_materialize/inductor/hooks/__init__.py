"""Where a real compile meets us."""

# Whoever needs one module of this package needs the wrappers that :mod:`.install` registers:
# without them, :func:`.sites.install` would put nothing in place and say nothing.
from . import install as install
