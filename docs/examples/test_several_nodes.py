import pytest

pytestmark = pytest.mark.pidoc(nodes=3)


def test_one_command_on_all_nodes_at_once(pi_cluster):
    results = pi_cluster.run("hostname")
    assert sorted(result.stdout.strip() for result in results.values()) == ["pi-1", "pi-2", "pi-3"]


def test_a_file_goes_from_one_node_to_the_others(pi_cluster, tmp_path):
    first, *others = pi_cluster
    first.run("head -c 100000 /dev/urandom > data")
    first.get("data", tmp_path / "data")
    for pi in others:
        pi.put(tmp_path / "data", "data")
    sums = {result.stdout for result in pi_cluster.run("sha256sum data").values()}
    assert len(sums) == 1


def test_a_node_by_its_place(pi_cluster):
    assert len(pi_cluster) == 3
    assert pi_cluster[2].name == "pi-3"
    assert [pi.name for pi in pi_cluster[1:]] == ["pi-2", "pi-3"]
