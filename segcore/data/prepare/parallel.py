"""Independent jobs on several processes, with one progress bar; a killed run leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")

# What a job may say of its files; other exceptions are ours, and end the run with their traceback.
_OF_THE_FILES = (ValueError, OSError)


def run_jobs(work: Callable[[Job], None], jobs: Sequence[Job], *, workers: int, title: str) -> None:
    """Call `work` on every job; the order is not defined.

    Args:
        work: leaves its result on disk. With several workers it must be picklable.
        jobs: picklable likewise.
        workers: processes; 1 works in this one.
        title: of the progress bar.

    Raises:
        ValueError, OSError: what a job raised, after the others have been stopped.
        RuntimeError: a worker was killed from outside.
    """
    with tqdm(total=len(jobs), desc=title, unit="image", mininterval=1) as bar:
        if workers <= 1 or len(jobs) <= 1:
            for job in jobs:
                work(job)
                bar.update()
        else:
            _run_in_processes(work, jobs, min(workers, len(jobs)), bar)


def _run_in_processes(work, jobs: Sequence, workers: int, bar: tqdm) -> None:
    # Fork where there is one: a spawned worker imports torch again, which takes longer than its work.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    processes: dict[Connection, multiprocessing.Process] = {}
    try:
        for number in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            share = jobs[number::workers]
            process = context.Process(target=_worker, args=(work, share, theirs, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
        _follow(processes, bar)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _worker(work, share: Sequence, progress: Connection, parent: int) -> None:
    for job in share:
        if os.getppid() != parent:  # it was killed: nobody is left to tell, and a second run may be under way
            return
        try:
            work(job)
        except _OF_THE_FILES as error:
            progress.send(error if type(error) in (ValueError, FileNotFoundError) else ValueError(str(error)))
            return
        progress.send(None)
    progress.send("done")


def _follow(processes: dict[Connection, multiprocessing.Process], bar: tqdm) -> None:
    open_ends = set(processes)
    while open_ends:
        for end in wait(list(open_ends)):
            try:
                message = end.recv()
            except EOFError:
                processes[end].join()
                raise RuntimeError(
                    f"{bar.desc}: a worker process ended early (exit code {processes[end].exitcode}); if the "
                    "machine ran out of memory, use fewer --workers. Run it again: what is done is kept"
                ) from None
            if isinstance(message, Exception):
                raise message
            if message == "done":
                open_ends.discard(end)
            else:
                bar.update()
