"""Prepare batches ahead in worker processes, always the same ones in the same order.

gunpowder's ``PreCache`` returns whichever batch is ready first, and for a request with a seed it
returns the same batch for ever. Here the seed of batch i is derived from the seed of the run and i,
worker w of n prepares the batches i with i mod n = w, and batches are handed out in the order of i.
So a run does not depend on the number of workers, and a run that resumes at batch i goes on as if
it had never stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
import traceback
from typing import Any

import gunpowder as gp
import numpy as np

from synpol.errors import InputError
from synpol.gp.batch_queue import BatchQueue


def request_batch(graph: gp.Pipeline, request: gp.BatchRequest) -> gp.Batch:
    """Request a batch, and raise a user's mistake as the node raised it.

    gunpowder turns whatever a node raises into text, again at every node downstream.

    Parameters
    ----------
    graph : gp.Pipeline
        Graph that was built.
    request : gp.BatchRequest

    Raises
    ------
    InputError
        A node raised it, in this process or in one that prepares batches.
    """
    try:
        return graph.request_batch(request)
    except gp.PipelineRequestError as error:
        _, is_mistake, message = str(error).rpartition("synpol.errors.InputError: ")
        if is_mistake:
            raise InputError(message.partition("\n")[0].strip()) from None
        raise


def batch_seed(seed: int, index: int) -> int:
    """Return the seed of batch `index` of a run, 0 .. 2**32 - 1."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class OrderedPreCache(gp.BatchFilter):
    """Hand out batch `first`, `first` + 1, ... of a run, prepared ahead.

    The worker processes are forked at the first request. They never touch CUDA.

    Parameters
    ----------
    seed : int
        Seed of the run.
    first : int
        Index of the first batch, above 0 if a run resumes.
    num_workers : int
        Number of worker processes. With 0, this process prepares a batch when it is requested.
    cache_size : int
        Number of batches kept ready by all workers together.
    niceness : int
        How far the workers give way to other processes, 0 (not) to 19. Where the network computes
        on the same cores, its threads wait for each other, so one that is interrupted stops all.

    Attributes
    ----------
    waited : float
        Seconds that requests have waited for their batches so far.
    """

    def __init__(
        self,
        seed: int,
        first: int = 0,
        num_workers: int = 1,
        cache_size: int = 8,
        niceness: int = 0,
    ) -> None:
        self.seed = seed
        self.niceness = niceness
        self.index = first
        self.num_workers = num_workers
        self.ahead = max(1, cache_size // max(1, num_workers))
        self.workers: list[Any] = []
        self.queues: list[BatchQueue] = []
        self.waited = 0.0

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        started = time.perf_counter()
        if self.num_workers and not self.workers:
            self._start(request)
        if self.num_workers:
            batch = self._next(self.index % self.num_workers)
        else:
            batch = self._make(request, self.index)
        self.index += 1
        self.waited += time.perf_counter() - started
        return batch

    def teardown(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()
        for each in self.queues:
            each.close()
        self.workers, self.queues = [], []

    def _make(self, request: gp.BatchRequest, index: int) -> gp.Batch:
        seeded = request.copy()
        seeded._random_seed = batch_seed(self.seed, index)
        return self.get_upstream_provider().request_batch(seeded)

    def _start(self, request: gp.BatchRequest) -> None:
        fork = multiprocessing.get_context("fork")
        for worker in range(self.num_workers):
            ready = BatchQueue(self.ahead)
            first = self.index + (worker - self.index) % self.num_workers
            process = fork.Process(
                target=self._run, args=(request.copy(), first, ready), daemon=True
            )
            process.start()
            self.queues.append(ready)
            self.workers.append(process)

    def _run(self, request: gp.BatchRequest, index: int, ready: BatchQueue) -> None:
        import signal

        import dask

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it ends with the training loop
        os.nice(self.niceness)
        dask.config.set(scheduler="synchronous")  # the parent's threads did not survive the fork
        threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
        try:
            while True:
                ready.put(self._make(request, index))
                index += self.num_workers
        except Exception:
            ready.put(None, traceback.format_exc())

    def _next(self, worker: int) -> gp.Batch:
        while True:
            try:
                batch, failure = self.queues[worker].get(timeout=2)
            except queue.Empty:
                if not self.workers[worker].is_alive():
                    code = self.workers[worker].exitcode
                    raise RuntimeError(
                        f"a process that prepares batches died (exit code {code}); if it was "
                        "killed for memory, lower train.num_workers or train.cache_size"
                    ) from None
                continue
            if batch is None:
                raise RuntimeError(f"a batch could not be prepared:\n{failure}")
            return batch


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
