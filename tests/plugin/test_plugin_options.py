"""What a user sees of options, ini values and variables."""

from __future__ import annotations

import pytest

from pytest_pidoc.settings.table import OPTIONS


@pytest.fixture
def passing(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile("def test_nothing(): pass")
    return pytester


def header(result: pytest.RunResult) -> str:
    """Return the plugin's line of the header."""
    return next((line for line in result.outlines if line.startswith("pidoc: ")), "")


def test_run_without_a_choice_has_no_line(passing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who chose nothing reads nothing."""
    monkeypatch.delenv("PIDOC_CACHE_DIR")
    result = passing.runpytest()

    result.assert_outcomes(passed=1)
    assert header(result) == ""


def test_header_names_the_option(passing: pytest.Pytester) -> None:
    """The header says what was chosen, and that an option did."""
    assert "engine local (from --pidoc-engine)" in header(passing.runpytest("--pidoc-engine=local"))


def test_header_names_the_variable(passing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header says that a variable did."""
    monkeypatch.setenv("PIDOC_NODES", "3")

    assert "nodes 3 (from PIDOC_NODES)" in header(passing.runpytest())


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pytest.ini", "[pytest]\npidoc_model = pi3-virt\n"),
        ("tox.ini", "[pytest]\npidoc_model = pi3-virt\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\npidoc_model = "pi3-virt"\n'),
        ("pyproject.toml", '[tool.pytest]\npidoc_model = "pi3-virt"\n'),
    ],
)
def test_header_names_the_ini_file(passing: pytest.Pytester, file: str, text: str) -> None:
    """The header says that the ini file did, whichever that is."""
    (passing.path / file).write_text(text)

    assert "model pi3-virt (from pidoc_model in the ini file)" in header(passing.runpytest())


def test_option_is_stronger_than_variable_and_ini(passing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was typed wins over what is around, which wins over what is written down."""
    passing.makeini("[pytest]\npidoc_nodes = 4\npidoc_memory = 1G")
    monkeypatch.setenv("PIDOC_NODES", "3")
    monkeypatch.setenv("PIDOC_MEMORY", "768M")
    line = header(passing.runpytest("--pidoc-nodes=2"))

    assert "nodes 2 (from --pidoc-nodes)" in line
    assert f"memory {768 * 1024**2} (from PIDOC_MEMORY)" in line


def test_flag(passing: pytest.Pytester) -> None:
    """A flag needs no value on the command line."""
    assert "require True (from --pidoc-require)" in header(passing.runpytest("--pidoc-require"))


def test_help_has_every_option(pytester: pytest.Pytester) -> None:
    """Each option is in pytest's help, with its ini key and its variable."""
    text = "".join(pytester.runpytest("--help").stdout.str().split())  # however it is wrapped

    for option in OPTIONS:
        described = f"{option.help} [ini: {option.ini}, environment: {option.variable}]"
        assert option.option in text
        assert "".join(described.split()) in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--pidoc-engine=podman", "--pidoc-engine: 'podman' is not one of auto, docker, local"),
        ("--pidoc-model=pi9", "--pidoc-model: 'pi9' is not one of pi3-virt"),
        ("--pidoc-nodes=0", "--pidoc-nodes: '0' is not a whole number from 1 to 250"),
        ("--pidoc-nodes=-1", "--pidoc-nodes: '-1' is not a whole number"),
        ("--pidoc-nodes=three", "--pidoc-nodes: 'three' is not a whole number"),
        ("--pidoc-nodes=10000", "--pidoc-nodes: '10000' is not a whole number"),
        ("--pidoc-memory=lots", "--pidoc-memory: 'lots' is not a size such as 512M or 1G"),
        ("--pidoc-boot-timeout=soon", "--pidoc-boot-timeout: 'soon' is not a number of seconds"),
        ("--pidoc-cache-dir=/etc/hostname", "--pidoc-cache-dir: '/etc/hostname' is not a directory"),
    ],
)
def test_bad_option_is_a_usage_error(passing: pytest.Pytester, argument: str, message: str) -> None:
    """A bad value ends the run before it begins, with the option, the value and what would be right."""
    result = passing.runpytest(argument)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_bad_variable_is_a_usage_error(passing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is named as such."""
    monkeypatch.setenv("PIDOC_ENGINE", "podman")
    result = passing.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "PIDOC_ENGINE: 'podman' is not one of" in result.stderr.str()


def test_bad_ini_value_is_a_usage_error(passing: pytest.Pytester) -> None:
    """An ini value is named as such."""
    passing.makeini("[pytest]\npidoc_engine = podman")
    result = passing.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pidoc_engine in the ini file: 'podman' is not one of" in result.stderr.str()


def test_unknown_option_is_a_usage_error(passing: pytest.Pytester) -> None:
    """A mistyped option is not ignored."""
    assert passing.runpytest("--pidoc-nods=3").ret == pytest.ExitCode.USAGE_ERROR


def test_strict_configuration(passing: pytest.Pytester) -> None:
    """With strict configuration, strict markers and warnings as errors, the plugin is quiet."""
    passing.makepyfile(
        """
        import pytest

        @pytest.mark.pidoc(nodes=3)
        def test_marked_but_without_a_pi():
            pass
        """
    )
    passing.makepyprojecttoml('[tool.pytest]\nstrict = true\npidoc_nodes = "2"\nfilterwarnings = ["error"]\n')
    result = passing.runpytest_subprocess("--strict-config", "--strict-markers")

    result.assert_outcomes(passed=1)


def test_unknown_ini_key_is_an_error_when_strict(passing: pytest.Pytester) -> None:
    """A mistyped ini key is found where the user asked for it."""
    passing.makeini("[pytest]\npidoc_nods = 3")

    assert passing.runpytest("--strict-config").ret != 0


def test_settings_fixture_has_values_and_sources(pytester: pytest.Pytester) -> None:
    """A test can read the settings, and where they came from."""
    pytester.makepyfile(
        """
        def test_settings(pidoc_settings):
            assert pidoc_settings.nodes == 2
            assert pidoc_settings.source("nodes") == "--pidoc-nodes"
            assert pidoc_settings.source("model") == "default"
        """
    )
    pytester.runpytest("--pidoc-nodes=2").assert_outcomes(passed=1)


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="pytest knows of one type per ini value")
@pytest.mark.parametrize(
    ("line", "shown"),
    [("pidoc_nodes = 3", "nodes 3"), ("pidoc_cpus = 0.5", "cpus 0.5"), ("pidoc_lan = false", "lan False")],
)
def test_native_values_of_toml(passing: pytest.Pytester, line: str, shown: str) -> None:
    """In pytest's own table a number is a number, and need not be a text."""
    passing.makepyprojecttoml(f"[tool.pytest]\n{line}\n")

    assert f"{shown} (from pidoc_{shown.split()[0]} in the ini file)" in header(passing.runpytest())


@pytest.mark.parametrize("value", ["[3]", "{ a = 3 }", "1979-05-27"])
def test_bad_native_value_of_toml_is_a_usage_error(passing: pytest.Pytester, value: str) -> None:
    """What no setting can be is named, and no traceback is shown."""
    passing.makepyprojecttoml(f"[tool.pytest]\npidoc_nodes = {value}\n")
    result = passing.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pidoc_nodes" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
