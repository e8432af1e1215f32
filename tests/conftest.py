"""For all tests."""

import os

# Routers of Serve outlive the cluster they belong to. Asked for their metrics they would start a cluster of their own
# in the middle of the next test, and wait for it for ever.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
