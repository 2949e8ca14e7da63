"""The cluster that tests run against: every process of it can be killed, stopped and started alone."""

from __future__ import annotations

import pytest
from support.topology import HubwireCluster
from support.world import World


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with HubwireCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def world(cluster):
    async with World(cluster, "topology") as one:
        yield one


async def works(world, cluster):
    """A message goes from every gateway to a member on every gateway, and REST sees them by each door."""
    members = [await world.json(groups=["room"], gateway=gateway) for gateway in cluster.gateways]
    for gateway in cluster.gateways:
        sender = await world.json(gateway=gateway)
        await sender.publish("room", gateway)
        assert [await member.data() for member in members] == [gateway] * len(members)
    for _ in cluster.control_planes:
        for member in members:
            assert (await world.rest("HEAD", f"/connections/{member.connection_id}"))[0] == 200


async def test_gateways_and_control_planes_are_handed_out_in_turn(cluster, world):
    assert {cluster.gateway() for _ in range(3)} == set(cluster.gateways)
    assert {cluster.control_plane() for _ in range(2)} == set(cluster.control_planes)
    assert (len(cluster.gateways), len(cluster.control_planes)) == (3, 2)
    await works(world, cluster)


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("role", ["gateway", "controlplane"])
async def test_one_process_goes_and_comes_back_at_its_port_while_the_others_serve(cluster, world, role, how):
    service = next(service for service in cluster.services if service.role == role)
    port = service.port
    getattr(service, how)()
    assert not service.running
    assert service.endpoint not in cluster.gateways + cluster.control_planes
    await works(world, cluster)
    service.start()
    assert service.port == port
    if role == "gateway":
        cluster.wait_for_owners(service.endpoint)
    await works(world, cluster)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_router_goes_and_the_other_takes_its_partitions(cluster, world, how):
    service = cluster.router_services[0]
    getattr(service, how)()
    for gateway in cluster.gateways:
        cluster.wait_for_owners(gateway)
    await works(world, cluster)
    service.start()
    await works(world, cluster)
