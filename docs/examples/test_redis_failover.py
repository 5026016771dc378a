"""Three Redis servers with a Sentinel each: while the master is cut off, the other two elect a new one."""

from io import StringIO

import pytest

PACKAGES = "redis-server redis-sentinel"

SENTINEL = """\
protected-mode no
daemonize yes
sentinel monitor main {master} 6379 2
sentinel down-after-milliseconds main 5000
sentinel failover-timeout main 20000
"""
ASK_MASTER = "redis-cli -p 26379 sentinel get-master-addr-by-name main"


@pytest.fixture
def redis(pi_cluster, tmp_path):
    """Install Redis from Debian's packages on every node; the first is the master."""
    first, *others = pi_cluster
    if first.sudo("apt-get -o APT::Update::Error-Mode=any update", warn=True).failed:
        pytest.skip("no Debian mirror can be reached")
    first.sudo(f"apt-get install --yes --download-only --no-install-recommends {PACKAGES}")
    first.run("tar -C /var/cache/apt/archives -cf debs.tar $(cd /var/cache/apt/archives && ls *.deb)")
    first.get("debs.tar", tmp_path / "debs.tar")
    for pi in others:
        pi.put(tmp_path / "debs.tar", "debs.tar")
    pi_cluster.run("tar -xf debs.tar && sudo dpkg --unpack *.deb")

    server = "redis-server --protected-mode no --daemonize yes --dir /tmp --save ''"
    first.run(server)
    for pi in others:
        pi.run(f"{server} --replicaof {first.lan_address} 6379")
        pi.wait_until_succeeds("redis-cli info replication | grep master_link_status:up", timeout=120)
    for pi in pi_cluster:
        pi.put(StringIO(SENTINEL.format(master=first.lan_address)), "sentinel.conf")
        pi.run("redis-sentinel sentinel.conf")
    for pi in pi_cluster:
        pi.wait_until_succeeds("redis-cli -p 26379 sentinel ckquorum main | grep '3 usable'", timeout=120)
    return pi_cluster


@pytest.mark.pidoc(nodes=3, fresh=True)
def test_majority_elects_a_new_master(redis):
    first, second, third = redis
    first.run("redis-cli set when before")

    with redis.partition([first], [second, third]):
        second.wait_until_succeeds(f"{ASK_MASTER} | grep -v {first.lan_address} | grep 192", timeout=120)
        address = second.run(ASK_MASTER).stdout.split()[0]
        (master,) = (pi for pi in redis if pi.lan_address == address)
        assert master.run("redis-cli get when").stdout == "before\n"
        assert master.run("redis-cli set when during").stdout == "OK\n"
        assert first.run("redis-cli get when").stdout == "before\n"  # it does not get the new value

    first.wait_until_succeeds("redis-cli get when | grep during", timeout=120)
    assert first.run("redis-cli role").stdout.startswith("slave\n")
