"""From the server's event loop to threads and back: blocking work never runs in the loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from opencode_magic.local.commands import PIECES_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from opencode_magic.local.commands import Command, Output

WORKERS = 64
WAITERS = 1024
P = ParamSpec("P")
T = TypeVar("T")
_pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="api")
_waiting = ThreadPoolExecutor(WAITERS, thread_name_prefix="wait")
"""Apart, so that those who wait for long hold up nobody who works."""


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread that lives on: a keeper ends with the thread that made it."""
    return await asyncio.get_running_loop().run_in_executor(_pool, partial(work, *args, **kwargs))


async def wait_in_thread(wait: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Wait in a thread for what cannot be awaited; each wait must end by itself, soon."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_waiting, partial(wait, *args, **kwargs))


def run_later(work: Callable[[], None]) -> None:
    """Run blocking work in a thread that nobody waits for. It must not raise."""
    _pool.submit(work)


async def batches(command: Command) -> AsyncIterator[list[Output]]:
    """Give a command's output from its start, in batches as it comes, until it has ended."""
    changed = asyncio.Event()
    undo = command.subscribe(_waker(changed))
    after = -1
    try:
        while True:
            changed.clear()
            # Asked first: output that came before the end is then in the batch.
            is_over = command.exit_code is not None
            outputs = command.outputs(after, most=PIECES_AT_ONCE)
            if outputs:
                after = outputs[-1].index
                yield outputs
            elif is_over:
                return
            else:
                await changed.wait()
    finally:
        undo()


async def until_ended(command: Command) -> None:
    """Wait for a command's end without holding a thread."""
    changed = asyncio.Event()
    undo = command.subscribe(_waker(changed))
    try:
        while command.exit_code is None:
            await changed.wait()
            changed.clear()
    finally:
        undo()


def _waker(changed: asyncio.Event) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    return wake
