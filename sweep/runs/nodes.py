"""Which nodes there are, as the head of Ray tells; and whether it still answers. Nothing here imports Ray: it is given.

The hard case is a head or a last node that is gone, of which a call of Ray would not tell before minutes have passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sweep.runs import connection
from sweep.runs.crew import ClusterError
from sweep.runs.room import Room
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import Kind

MINUTES = 10.0  # how long a started cluster may take until its nodes have joined
LOOK_SECONDS = 5.0  # between two looks


class Nodes:
    """The nodes of the cluster that `ray`, the package, is connected to; `kinds` tells the GPUs of workers."""

    def __init__(self, ray: Any, options: RunOptions, kinds: Callable[[], tuple[Kind, ...]]) -> None:
        self._ray, self._options, self._kinds = ray, options, kinds
        self._looked = 0.0
        self.lost = False  # none of them answers any more

    def room(self) -> Room:
        """What they have room for now."""
        return Room.of(connection.within(self._ray.nodes), self._options, self._kinds())

    def wait_for_room(self, notify: Callable[[str], None]) -> None:
        """Until there is room for a worker, or a cluster has had time enough."""
        notify(self.room().wait_line(MINUTES))
        connection.wait_until(lambda: bool(self.room().workers), MINUTES * 60)

    def look(self) -> Room | None:
        """Every few seconds what they have room for. Raises ClusterError when they are gone."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return None
        self.check()
        self._looked = time.monotonic()
        return self.room()

    def check(self) -> None:
        """Raise ClusterError when the head does not answer any more, or no node is alive."""
        head = self._ray.get_runtime_context().gcs_address
        if gone := connection.gone(self._options.address, head, lambda: bool(self.room().nodes)):
            self.lost = True
            raise ClusterError(gone)
