"""A quorum queue on three nodes: its leader dies under load, and every node is restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from carrot.exceptions import Nacked
from tests.brokers import RabbitMQ
from tests.brokers.cluster import Cluster
from tests.conftest import unavailable
from tests.faults.traffic import Traffic, told
from tests.waiting import eventually

FAILOVER = 30.0  # seconds until messages flow again, with an election among busy nodes
CATCHING_UP = 60.0  # seconds until a queue has all its replicas again

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with Cluster() as cluster:
        yield cluster


def test_a_quorum_queue_loses_nothing_when_its_nodes_fail_and_restart(
    cluster: Cluster, unique: Callable[..., str]
) -> None:
    queue = unique("quorum")
    outages: list[float] = []

    with Traffic(
        cluster.url,
        queue,
        # What a queue is told while it has no leader may be refused; that is no loss.
        expected=(Nacked,),
        consumer_options={"queue_type": "quorum"},
    ) as traffic:

        def outage(begin: Callable[[], object]) -> None:
            """Let something fail; note how long no message came, and have all replicas back."""
            traffic.take_silence()
            begin()
            traffic.wait_for_flow(FAILOVER)
            outages.append(traffic.take_silence())

        def all_replicas_are_there() -> bool:
            return online_replicas(cluster, queue) == len(cluster.nodes)

        eventually(all_replicas_are_there, CATCHING_UP)
        leader = cluster.leader_of(queue)
        outage(leader.kill)
        leader.start()
        eventually(all_replicas_are_there, CATCHING_UP)
        for node in cluster.nodes:
            outage(node.restart)
            eventually(all_replicas_are_there, CATCHING_UP)

    print(f"\n{traffic.ledger.summary()}, refused {len(traffic.errors)}")
    print(f"without messages: {told(outages)}")
    traffic.ledger.check()
    assert traffic.times_lost >= 2


def online_replicas(cluster: Cluster, queue: str) -> int:
    """How many nodes have a running replica of a quorum queue."""
    asked = next(node for node in cluster.nodes if node.is_running)
    for line in asked.ctl("list_queues", "name", "online").splitlines():
        name, _, online = line.partition("\t")
        if name == queue:
            return online.count("@")
    return 0
