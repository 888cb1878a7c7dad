"""Many small computations side by side, each on one thread."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each computing on one.

    Small matrices gain little from several threads and are far slower with them on a busy machine; and so no figure
    hangs on how many there are. Wait for results inside: on leaving, what has not begun never does.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=threadpool_limits, initargs=(1, "openmp"))  # of scikit-learn's trees
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
