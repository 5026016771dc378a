import pytest


@pytest.mark.pidoc(hostname="octopi", fresh=True)
def test_name_of_my_own(pi):
    assert pi.run("hostname").stdout == "octopi\n"

    pi.sudo("hostnamectl set-hostname mainsail")
    pi.reboot()

    assert pi.run("hostname").stdout == "mainsail\n"


@pytest.mark.pidoc(nodes=2, hostname="broker-{n}")
def test_names_of_several_nodes(pi_cluster):
    addresses = {pi.run("getent ahostsv4 broker-2").stdout.split()[0] for pi in pi_cluster}

    assert addresses == {pi_cluster[1].lan_address}
