import pytest

pytestmark = pytest.mark.pidoc(nodes=3)


def test_one_command_on_all_nodes_at_once(pi_cluster):
    results = pi_cluster.run("hostname")
    assert results["pi-2"].stdout.strip() == "pi-2"
    assert [result.stdout.strip() for result in results.values()] == ["pi-1", "pi-2", "pi-3"]


def test_a_file_goes_from_one_node_to_the_others(pi_cluster, tmp_path):
    pi_cluster[0].run("head -c 100000 /dev/urandom > data")
    pi_cluster[0].get("data", tmp_path / "data")
    pi_cluster.put(tmp_path / "data", "data")
    sums = {result.stdout for result in pi_cluster.run("sha256sum data").values()}
    assert len(sums) == 1


def test_a_file_comes_from_each_node(pi_cluster, tmp_path):
    pi_cluster.run("hostname > name")
    pi_cluster.get("name", tmp_path / "{name}.txt")
    assert (tmp_path / "pi-3.txt").read_text() == "pi-3\n"


def test_nodes_log_in_to_each_other(pi_cluster):
    pi_cluster.trust()
    assert pi_cluster[0].run("ssh pi-2 hostname").stdout.strip() == "pi-2"


def test_a_node_by_its_place_or_name(pi_cluster):
    assert len(pi_cluster) == 3
    assert pi_cluster[2].name == "pi-3"
    assert pi_cluster["pi-3"] is pi_cluster[2]
    assert [pi.name for pi in pi_cluster[1:]] == ["pi-2", "pi-3"]
