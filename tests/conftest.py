"""Before torch is imported anywhere: tests share two cores, and threads that spin slow all down."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
