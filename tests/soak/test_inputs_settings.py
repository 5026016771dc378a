"""Bad markers, options, environment values and ini values: each a clear error, or accepted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from bad_inputs import almost, anything, judged, text
from hypothesis import given
from hypothesis import strategies as st

from pytest_pidoc.machines import MODELS
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.settings.table import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

FAST, SLOW = (hypothesis.settings.get_profile(name) for name in ("soak", "soak-slow"))

NAMES = [option.name for option in OPTIONS]
ARGUMENTS = [*ClusterSpec.__dataclass_fields__, "fresh"]

#: Values that are good for one setting or another, and almost good ones.
VALUES = almost(
    *("auto", "docker", "local", *MODELS, "debian:bookworm", "raspios", "docker://example.org/pidoc:1", "none"),
    *("3", "250", "512M", "1G", "64MiB", "0.5", "90", "1e3", "warm", "cold", "yes", "no", "never", "on-failure"),
    *("quiet maxcpus=1", "somewhere", "https://example.org/a.dtb#sha256=" + 64 * "0"),
)
ANY = VALUES | anything


@pytest.fixture(autouse=True)
def _nothing_left(nothing_left: None) -> None:
    """Keep this machine's settings out, and look for what is left."""


@FAST
@given(st.dictionaries(st.sampled_from(ARGUMENTS[:-1]) | almost(*ARGUMENTS) | text, ANY, max_size=4))
def test_arguments_of_a_marker(arguments: dict[str, Any]) -> None:
    with judged():
        spec = Settings().spec(arguments)
        assert 1 <= spec.nodes <= 250
        assert spec.model in MODELS
        assert hash(spec) == hash(spec)


@pytest.mark.parametrize("name", ARGUMENTS[:-1])
@FAST
@given(value=ANY)
def test_argument_of_a_marker(name: str, value: Any) -> None:
    with judged():
        Settings().spec({name: value})


@FAST
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES | text, max_size=3),
    st.dictionaries(st.sampled_from([option.variable for option in OPTIONS]) | text, VALUES | text, max_size=3),
    st.dictionaries(st.sampled_from(NAMES), ANY, max_size=3),
)
def test_options_variables_and_ini_values(options: Any, environment: Any, ini: Any) -> None:
    with judged():
        settings = Settings.load(options, environment=environment, ini=ini)
        assert set(settings.sources) <= set(NAMES)
        settings.spec()


#: Of other plugins, what leaves a thread in each process.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:rerunfailures")


class Run:
    """A test that is given a marker, and what becomes of it in a real run of pytest."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.marker: pytest.MarkDecorator | None = None
        pytester.makepyfile("def test_marked(): pass")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if self.marker is not None:
            item.add_marker(self.marker)

    def run(self, *arguments: str) -> None:
        """Run pytest; it passes, or is a usage error that says why."""
        result = self.pytester.runpytest_inprocess(*WITHOUT, *arguments, plugins=[self])
        said = result.stdout.str() + result.stderr.str()
        assert "INTERNALERROR" not in said
        assert "Traceback" not in said
        if result.ret != pytest.ExitCode.OK:
            assert result.ret == pytest.ExitCode.USAGE_ERROR, said
            assert len(result.stderr.str()) < 8000
            raise pytest.UsageError


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    return Run(pytester)


@SLOW
@given(st.lists(ANY, max_size=2), st.dictionaries(st.sampled_from(ARGUMENTS) | almost(*ARGUMENTS), ANY, max_size=3))
def test_marker_of_a_test(run: Run, positional: list[Any], named: dict[str, Any]) -> None:
    run.marker = pytest.mark.pidoc.with_args(*positional, **named)
    with judged(pytest.UsageError):
        run.run()
    run.marker = None


ON_A_LINE = (VALUES | text).map(lambda value: "".join(each for each in value if each.isprintable() and each < "\ud800"))


@SLOW
@given(st.dictionaries(st.sampled_from(OPTIONS), ON_A_LINE, max_size=2), st.booleans())
def test_options_of_a_run(run: Run, options: dict[Any, str], joined: bool) -> None:
    words = [
        word
        for option, value in options.items()
        for word in (
            [option.option]
            if not option.metavar
            else [f"{option.option}={value}"]
            if joined
            else [option.option, value]
        )
    ]
    with judged(pytest.UsageError):
        run.run(*words)


@SLOW
@given(st.dictionaries(st.sampled_from(OPTIONS), ON_A_LINE, min_size=1, max_size=2))
def test_values_in_pytest_ini(run: Run, values: dict[Any, str]) -> None:
    lines = "".join(f"{option.ini} = {value}\n" for option, value in values.items())
    with judged(pytest.UsageError):
        run.run("-c", str(_written(run, "pytest.ini", f"[pytest]\n{lines}")))


TOML = (
    st.integers(-(2**63), 2**63 - 1).map(str)
    | st.sampled_from(
        ["3", "0.5", "inf", "nan", "true", "false", "[]", '["3"]', "{a = 1}", "1979-05-27", "07:32:00", "1e3"]
    )
    | ON_A_LINE.map(json.dumps)
)


@pytest.mark.parametrize("table", ["tool.pytest", "tool.pytest.ini_options"])
@SLOW
@given(values=st.dictionaries(st.sampled_from(OPTIONS), TOML, min_size=1, max_size=2))
def test_values_in_pyproject_toml(run: Run, table: str, values: dict[Any, str]) -> None:
    lines = "".join(f"{option.ini} = {value}\n" for option, value in values.items())
    with judged(pytest.UsageError):
        run.run("-c", str(_written(run, "pyproject.toml", f"[{table}]\n{lines}")))


@SLOW
@given(st.dictionaries(st.sampled_from(OPTIONS), ON_A_LINE, min_size=1, max_size=2))
def test_values_around(run: Run, values: dict[Any, str]) -> None:
    with pytest.MonkeyPatch.context() as patch, judged(pytest.UsageError):
        for option, value in values.items():
            patch.setenv(option.variable, value)
        run.run()


def _written(run: Run, name: str, text: str) -> Path:
    path = run.pytester.path / name
    path.write_text(text, encoding="utf-8")
    return path
