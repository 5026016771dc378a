import pytest


@pytest.mark.pidoc
def test_configuration_is_there(pi):
    assert pi.run("cat app.conf").stdout == "port = 80\n"
