"""Settings: what is taken, where it came from, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_pidoc.cluster import Cluster, ClusterArguments
from pytest_pidoc.errors import SettingsError
from pytest_pidoc.machines import MIB, MODELS
from pytest_pidoc.settings.spec import ClusterSpec, Settings
from pytest_pidoc.settings.table import FLAGS, MARKER, MARKER_SIGNATURE, OPTIONS
from pytest_pidoc.steps.steps import Script
from pytest_pidoc.values.options import Option, choose

every_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)

# A usable value of each setting, as text and as what it becomes.
GOOD: dict[str, tuple[str, Any]] = {
    "engine": ("local", "local"),
    "model": ("pi3-virt", "pi3-virt"),
    "image": (" debian:bookworm ", "debian:bookworm"),
    "nodes": ("3", 3),
    "memory": ("256M", 256 * MIB),
    "cpus": ("0.5", 0.5),
    "boot_timeout": ("90", 90.0),
    "start": ("cold", "cold"),
    "kernel": (" ~/kernel8.img ", "~/kernel8.img"),
    "initrd": ("none", "none"),
    "dtb": ("https://example.org/a.dtb#sha256=0", "https://example.org/a.dtb#sha256=0"),
    "image_user": (" ada ", "ada"),
    "image_password": ("my secret ", "my secret "),
    "append": ("quiet maxcpus=1", "quiet maxcpus=1"),
    "announce_board": ("yes", True),
    "mips": ("500", 500.0),
    "lan": ("no", False),
    "hostname": ("octopi", "octopi"),
    "internet": ("no", False),
    "workers": ("own", "own"),
    "overcommit": ("yes", True),
    "host_access": ("yes", True),
    "prepare": (__file__, (Script.of(Path(__file__)),)),
    "prepare_files": (f"{__file__}, {Path(__file__).parent}", (Path(__file__), Path(__file__).parent)),
    "prepare_again": ("yes", True),
    "keep": ("on-failure", "on-failure"),
    "cache_dir": ("/somewhere/cache", Path("/somewhere/cache")),
    "artifacts": ("/somewhere/evidence", Path("/somewhere/evidence")),
    "require": ("yes", True),
}

BAD: list[tuple[str, object]] = [
    *(("engine", value) for value in ("podman", "Docker", "auto ", 3)),
    *(("model", value) for value in ("pi9", "PI3-VIRT", ["pi3-virt"], 3)),
    *(("image", value) for value in (" ", "a\nb", "a\0b", 7)),
    *(("nodes", value) for value in (0, -1, "three", 10_000, 251, 1.5, True, "1.0", "0x3", "٣", [1])),
    *(("memory", value) for value in ("lots", "0", "63M", "512.5M", -1, 64 * MIB + 1, "2000G", True, "M")),
    *(("cpus", value) for value in ("0", "-1", "nan", "inf", "many", True, 1000, [1])),
    *(("boot_timeout", value) for value in (0, "-5", "nan", "inf", "soon", False, 90_000)),
    *((name, value) for name in ("kernel", "initrd", "dtb") for value in (" ", "a\nb", 7, ["a"])),
    *(("image_user", value) for value in ("root", " ", "ada:x", "a b", "-ada", "a" * 33, 1000, "ada\n")),
    *(("append", value) for value in ("quiet\nroot=/dev/sda", "a\0b", 7, ["quiet"])),
    *(("mips", value) for value in ("0", "-1", "700", 2000, "nan", "fast", True)),
    *(("hostname", value) for value in ("-pi", "pi_1", "pi.local", "{N}", "pi {n}", "p" * 64, 7, ["pi"])),
    *(("workers", value) for value in ("4", "Shared", True)),
    *(("keep", value) for value in ("yes", "On-Failure", True)),
    *(("cache_dir", value) for value in (" ", "a\0b", 3, "~nobody-has-this-name/x", "/" + "x" * 300)),
    *(
        (name, value)
        for name in ("announce_board", "lan", "internet", "overcommit", "host_access", "require", "prepare_again")
        for value in ("maybe", 2)
    ),
]


def load(
    options: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    ini: dict[str, object] | None = None,
) -> Settings:
    return Settings.load(options, environment=environment or {}, ini=ini)


def test_every_option_is_a_field() -> None:
    """Each setting has one option, and the other way round."""
    fields = [field.name for field in dataclasses.fields(Settings) if field.name != "sources"]

    assert sorted(option.name for option in OPTIONS) == sorted(fields)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("engine", ("--pidoc-engine", "pidoc_engine", "PIDOC_ENGINE")),
        ("boot_timeout", ("--pidoc-boot-timeout", "pidoc_boot_timeout", "PIDOC_BOOT_TIMEOUT")),
    ],
)
def test_option_ini_and_variable_are_spelt_alike(name: str, spellings: tuple[str, str, str]) -> None:
    """A setting has the same name in its three places."""
    option = next(option for option in OPTIONS if option.name == name)

    assert (option.option, option.ini, option.variable) == spellings


#: Where a value can come from, and how that place is named for an option.
SOURCES = {
    "options": lambda option: (option.name, option.option),
    "environment": lambda option: (option.variable, option.variable),
    "ini": lambda option: (option.name, f"{option.ini} in the ini file"),
}


@pytest.mark.parametrize("source", SOURCES)
@every_option
def test_value_of_each_source(option: Option, source: str) -> None:
    """Each setting is taken from an option, from the environment and from the ini file, and says so."""
    text, value = GOOD[option.name]
    key, said = SOURCES[source](option)
    settings = load(**{source: {key: text}})

    assert getattr(settings, option.name) == value
    assert settings.source(option.name) == said


@every_option
def test_default(option: Option) -> None:
    """What nobody chose is the default, and says so."""
    settings = load()

    assert getattr(settings, option.name) == getattr(Settings(), option.name)
    assert settings.source(option.name) == "default"


def test_option_is_stronger_than_the_environment() -> None:
    """What was typed last wins."""
    settings = load(options={"nodes": "2"}, environment={"PIDOC_NODES": "3"}, ini={"nodes": "4"})

    assert (settings.nodes, settings.source("nodes")) == (2, "--pidoc-nodes")


def test_environment_is_stronger_than_the_ini_file() -> None:
    """A CI job can change what a project says."""
    settings = load(environment={"PIDOC_NODES": "3"}, ini={"nodes": "4"})

    assert (settings.nodes, settings.source("nodes")) == (3, "PIDOC_NODES")


def test_empty_value_is_not_given() -> None:
    """An empty variable, as CI systems set them, leaves the choice to the next source."""
    assert load(environment={"PIDOC_NODES": ""}, ini={"nodes": "4"}).nodes == 4


def test_bad_value_is_refused_even_where_a_weaker_one_is_good() -> None:
    """A mistake is not papered over."""
    with pytest.raises(SettingsError, match="PIDOC_NODES"):
        load(environment={"PIDOC_NODES": "three"}, ini={"nodes": "4"})


def test_this_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment of its own, ``load`` reads that of the process."""
    monkeypatch.setenv("PIDOC_NODES", "7")

    assert Settings.load().nodes == 7


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_value_is_refused(name: str, value: object) -> None:
    """What is no value of a setting is a SettingsError that names the option and the value."""
    option = "--pidoc-" + name.replace("_", "-")
    with pytest.raises(SettingsError) as caught:
        load(options={name: value})

    assert caught.value.what.startswith(f"{option}: {value!r} is not ")


@pytest.mark.parametrize("value", ["two\nlines", "x" * 101, 1234])
def test_a_bad_password_is_refused_without_being_shown(value: object) -> None:
    """What was mistyped may be nearly right."""
    with pytest.raises(SettingsError) as caught:
        load(options={"image_password": value})

    assert caught.value.what.startswith("--pidoc-image-password: the value is not a password")
    assert str(value) not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    """Neither where settings are printed, nor where it came from."""
    settings = load(options={"image": "./my.img"}, environment={"PIDOC_IMAGE_PASSWORD": "only mine"})
    chosen = choose(OPTIONS, {}, {"PIDOC_IMAGE_PASSWORD": "only mine"}, {})

    assert "only mine" not in f"{settings!r} {settings.spec()!r} {chosen}"
    assert str(chosen) == "image_password *** (from PIDOC_IMAGE_PASSWORD)"
    assert settings.spec().image_password == "only mine"


def test_prefix_names_the_command_lines_option() -> None:
    """The command ``pidoc`` has no ``pidoc`` in its options, and its messages neither."""
    with pytest.raises(SettingsError, match=r"^--boot-timeout: 'soon' is not"):
        Settings.load({"boot_timeout": "soon"}, environment={}, prefix="--")


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file where a directory should be is found when the settings are read."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is not a directory: it is a file"):
        load(options={"cache_dir": str(tmp_path / "file")})


def test_directory_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde is the home directory, as ini files have no shell to expand it."""
    monkeypatch.setenv("HOME", "/home/someone")

    assert load(ini={"cache_dir": "~/cache"}).cache_dir == Path("/home/someone/cache")


def test_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative directory means the same after a change of directory."""
    monkeypatch.chdir(tmp_path)

    assert load(options={"artifacts": "evidence"}).artifacts == tmp_path / "evidence"


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default cache directory is below XDG_CACHE_HOME."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")

    assert load().cache_dir == Path("/xdg/pytest-pidoc")


def test_cache_is_below_home_without_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default cache directory is in the home directory's .cache, also where XDG_CACHE_HOME is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")

    assert load().cache_dir == Path("/home/someone/.cache/pytest-pidoc")


def test_settings_cannot_be_changed() -> None:
    """Settings are a value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().nodes = 2


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), (" on ", True), ("off", False), ("0", False)])
def test_flag(text: str, value: bool) -> None:
    """A flag is spelt as people spell it."""
    assert load(environment={"PIDOC_REQUIRE": text}).require is value


@given(st.integers(1, 250))
def test_every_possible_number_of_nodes(number: int) -> None:
    """A number of nodes is taken as a number and as text."""
    assert load(options={"nodes": number}).nodes == load(environment={"PIDOC_NODES": f" {number} "}).nodes == number


@given(st.integers().filter(lambda number: not 1 <= number <= 250))
def test_every_impossible_number_of_nodes(number: int) -> None:
    """A number of nodes that is not from 1 to 250 is refused."""
    with pytest.raises(SettingsError, match="is not a whole number from 1 to 250"):
        load(options={"nodes": number})


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_of_seconds(number: float) -> None:
    """A timeout is taken if it is positive, finite and at most a day, else it is refused."""
    if 0.001 <= number <= 86400:
        assert load(options={"boot_timeout": number}).boot_timeout == number
    else:
        with pytest.raises(SettingsError, match="is not a number of seconds"):
            load(options={"boot_timeout": number})


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()), st.tuples()
)


@example("nodes", "9" * 20)
@example("memory", "9" * 12 + "T")
@example("cpus", 10**400)
@example("cache_dir", "~root\ud800/x")
@given(st.sampled_from([option.name for option in OPTIONS]), ANYTHING)
def test_whatever_is_given_is_taken_or_refused(name: str, value: object) -> None:
    """No value of any kind ends in another exception than SettingsError, nor in a field of another type."""
    try:
        settings = load(options={name: value})
    except SettingsError:
        return
    taken, default = getattr(settings, name), getattr(Settings(), name)
    expected = {
        "memory": (int, type(None)),
        "cpus": (float, type(None)),
        "boot_timeout": (float, type(None)),
        "artifacts": (Path, type(None)),
        **dict.fromkeys(("kernel", "initrd", "dtb", "append"), (str, type(None))),
    }.get(name, type(default))
    assert isinstance(taken, expected)
    assert not isinstance(taken, float) or math.isfinite(taken)


def test_spec_without_a_marker_is_the_settings() -> None:
    """A test without a marker gets what the settings say."""
    settings = load(options={"nodes": 2, "memory": "1G", "engine": "local", "cpus": 0.5, "boot_timeout": 9})

    assert settings.spec() == ClusterSpec(2, "pi3-virt", "debian:bookworm", "local", 1024 * MIB, 0.5, 9.0)


@pytest.mark.parametrize("name", ["engine", "model", "image", "nodes", "memory", "cpus", "boot_timeout"])
def test_marker_is_stronger_than_an_option(name: str) -> None:
    """What a test asks for is what it gets."""
    text, value = GOOD[name]
    other = {"engine": "docker", "model": "pi3-virt", "image": "debian", "nodes": 9, "memory": "1G", "cpus": 2}
    settings = load(options={name: other.get(name, 33)})

    assert getattr(settings.spec({name: text}), name) == value


def test_none_in_a_marker_is_not_given() -> None:
    """``None``, the signature's default, leaves the choice to the settings."""
    assert load(options={"nodes": 4}).spec({"nodes": None, "memory": None}).nodes == 4


@pytest.mark.parametrize("value", [0, -1, "three", 10_000, 1.5, True])
def test_bad_number_in_a_marker(value: object) -> None:
    """The error names the marker's argument and prints the marker's signature."""
    with pytest.raises(SettingsError, match="nodes of the marker pidoc") as caught:
        load().spec({"nodes": value})

    assert caught.value.tip == MARKER_SIGNATURE


@pytest.mark.parametrize("name", ["node", "cache_dir", "require", "artifacts", "sources", ""])
def test_unknown_name_in_a_marker(name: str) -> None:
    """A name that is no argument of the marker is refused with the marker's signature."""
    with pytest.raises(SettingsError, match=f"the marker pidoc has no argument {name!r}") as caught:
        load().spec({name: 1})

    assert caught.value.tip == MARKER_SIGNATURE


def test_spec_says_where_its_arguments_stood() -> None:
    """The error of another caller names that caller and what it takes, which is not all that the marker takes."""
    with pytest.raises(SettingsError, match=r"model of Cluster\.up: 'pi9' is not one of") as caught:
        load().spec({"model": "pi9"}, where="Cluster.up")

    assert caught.value.tip.startswith("Cluster.up(nodes=None, *, model=None, ")
    assert "fresh" not in caught.value.tip


@pytest.mark.parametrize("memory", ["512M", "1025M", "2G"])
def test_board_has_its_own_memory(memory: str) -> None:
    """A size that QEMU's board cannot have is refused before anything is built or booted, whoever asked for it."""
    with pytest.raises(SettingsError, match=r"memory: \d+M is not supported by pi3, which has 1024M") as caught:
        load().spec({"model": "pi3", "memory": memory})
    with pytest.raises(SettingsError, match="pi3, which has 1024M"):
        load(options={"memory": memory}).spec({"model": "pi3"})

    assert caught.value.tip == "leave memory out, or choose a -virt model"


def test_boards_own_memory_may_be_named() -> None:
    """The board's size is a good one, and a virtual machine can have any."""
    assert load().spec({"model": "pi3", "memory": "1G"}).memory == 1024 * MIB
    assert load().spec({"model": "pi3-virt", "memory": "768M"}).memory == 768 * MIB


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"engine": "docker", "host_access": True}, "host_access is not supported by the engine docker"),
        ({"image": "docker://example.org/pi:1", "host_access": True}, "host_access cannot be given with the published"),
        ({"image": "docker://example.org/pi:1", "append": "quiet"}, "append cannot be given with the published image"),
        ({"internet": False, "host_access": True}, "host_access=True has no effect with internet=False"),
        ({"model": "pi1-versatile", "announce_board": True}, "announce_board is not supported by pi1-versatile"),
        ({"model": "pi1-versatile", "nodes": 2, "lan": True}, "lan=True is not supported by pi1-versatile"),
        ({"prepare_files": __file__}, "prepare_files has no effect without prepare"),
    ],
)
def test_argument_that_would_be_ignored_is_refused(arguments: dict[str, object], what: str) -> None:
    """A test that asks for something gets it, or hears at once that it cannot."""
    with pytest.raises(SettingsError, match=f"^{what}") as caught:
        load().spec(arguments)

    assert caught.value.tip


def test_setting_of_a_run_is_for_those_that_can() -> None:
    """What a run asks of all its nodes is not refused for a model without it, but the engine docker for host access."""
    run = load(options={"announce_board": True, "lan": True, "host_access": True})

    assert run.spec({"model": "pi1-versatile", "nodes": 2}).announce_board
    assert run.spec({"internet": False}).host_access
    with pytest.raises(SettingsError, match="host_access is not supported by the engine docker"):
        run.spec({"engine": "docker"})
    assert load().spec({"model": "pi1-versatile", "lan": True}).nodes == 1


def test_equal_specs_are_one_key() -> None:
    """Two markers that mean the same share a cluster, however they are spelt."""
    first, second = load().spec({"memory": "1G", "nodes": "2"}), load().spec({"memory": 1024 * MIB, "nodes": 2})

    assert first == second
    assert hash(first) == hash(second)


@given(st.fixed_dictionaries({}, optional={name: st.just(GOOD[name][0]) for name in ("nodes", "memory", "cpus")}))
def test_reading_a_spec_again_changes_nothing(marker: dict[str, object]) -> None:
    """A spec's own values are a marker for the same spec."""
    spec = load().spec(marker)

    assert load().spec(dataclasses.asdict(spec)) == spec


def test_every_model_can_be_chosen() -> None:
    """Every row of the table of models is a value of ``model``."""
    assert [load(options={"model": name}).model for name in MODELS] == list(MODELS)


def test_table_spec_and_arguments_agree() -> None:
    """A setting of clusters has a row, a field and an argument of ``Cluster.up``, all in the same order."""
    fields = [field.name for field in dataclasses.fields(ClusterSpec)]

    assert [option.name for option in OPTIONS if option.applies != "run"] == fields
    assert ["nodes", *ClusterArguments.__annotations__] == fields
    assert [option.name for option in MARKER] == [*fields, *(flag.name for flag in FLAGS)]


def test_signature_has_every_argument() -> None:
    """The signature that errors print has every argument that a marker takes."""
    for option in MARKER:
        assert f"{option.name}=" in MARKER_SIGNATURE


def test_up_shows_every_argument() -> None:
    """``help(Cluster.up)`` names and describes what a cluster can be asked for, beside what is its own."""
    parameters = inspect.signature(Cluster.up).parameters

    assert list(parameters) == [
        *(field.name for field in dataclasses.fields(ClusterSpec)),
        *("settings", "progress", "keep"),
    ]
    assert parameters["memory"].annotation == "int | str | None"
    assert all(f"\n{name}\n" in (inspect.getdoc(Cluster.up) or "") for name in parameters)


def test_unknown_argument_of_up() -> None:
    """A mistyped name is what it is for any function, before anything is looked for."""
    with pytest.raises(TypeError, match=r"Cluster\.up\(\) got an unexpected keyword argument 'node'"):
        Cluster.up(node=3)


def test_spec_has_no_setting_of_the_run() -> None:
    """Settings are a spec and more: what is made of them is compared and recorded, and is a spec alone."""
    spec = load(options={"nodes": 2, "keep": "always"}).spec()

    assert type(spec) is ClusterSpec
    assert ClusterSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("name", ["image", "kernel", "initrd", "dtb"])
def test_files_are_given_as_paths_or_texts(name: str) -> None:
    """A test has a ``Path`` more often than a text."""
    assert getattr(Settings().spec({name: Path("/a/file")}), name) == "/a/file"


class Broken:
    """A path that cannot tell which one."""

    def __fspath__(self) -> str:
        raise RuntimeError("not yet known")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nor whether it is another")

    __hash__ = None


@pytest.mark.parametrize("value", [Broken(), PurePosixPath("a\nb"), b"/a/file"], ids=["broken", "two lines", "bytes"])
@pytest.mark.parametrize("name", ["image", "kernel", "initrd", "dtb"])
def test_no_file(name: str, value: object) -> None:
    """What is no path is refused like any other bad value, whatever happens when it is asked."""
    with pytest.raises(SettingsError, match=f"{name} of the marker pidoc: .* is not a"):
        Settings().spec({name: value})
    with pytest.raises(SettingsError, match=f"pidoc_{name} in the ini file: .* is not a"):
        Settings.load(ini={name: value})


@pytest.mark.parametrize(
    ("hostname", "names"), [("pi-{n}", ["pi-1", "pi-12"]), ("octopi", ["octopi"] * 2), ("{image}", ["", ""])]
)
def test_host_names_by_number(hostname: str, names: list[str]) -> None:
    """The number stands where it is asked for; an empty name leaves the guest the image's."""
    spec = load().spec({"hostname": hostname})

    assert [spec.host_name(1), spec.host_name(12)] == names


def test_several_nodes_need_several_host_names() -> None:
    """Unless they keep the image's, as several copies of one SD card do."""
    with pytest.raises(SettingsError, match=r"hostname: 2 nodes cannot all be called 'octopi'\.") as caught:
        load().spec({"nodes": 2, "hostname": "octopi"})

    assert 'hostname="octopi-{n}"' in caught.value.tip
    assert load().spec({"nodes": 2, "hostname": "{image}"}).host_name(2) == ""


def etcd(cluster: object) -> None:
    """A preparation."""


def test_preparation_of_a_cluster(tmp_path: Path) -> None:
    """A marker takes functions and paths, alone or in a list; a missing one is named with where it was looked for."""
    (tmp_path / "setup.sh").write_text("true")
    (tmp_path / "site.yml").write_text("[]")
    folders = (tmp_path / "none", tmp_path)
    spec = load().spec({"prepare": [etcd, "setup.sh", Path("site.yml")]}, places=folders)

    assert [(step.kind, step.name) for step in spec.prepare] == [
        *(("function", "etcd()"), ("script", "setup.sh"), ("playbook", "site.yml")),
    ]
    assert load().spec({"prepare": etcd}).prepare == spec.prepare[:1]
    with pytest.raises(SettingsError) as caught:
        load().spec({"prepare": "no.sh"}, places=folders)
    assert caught.value.what == f"prepare of the marker pidoc: 'no.sh' does not exist in {folders[0]} or {folders[1]}."


def test_preparation_of_a_run(tmp_path: Path) -> None:
    """An option names several with commas; a marker has another one, or none."""
    for name in ("a.sh", "b.yml"):
        (tmp_path / name).write_text("")
    chosen = choose(OPTIONS, {"prepare": "a.sh, b.yml"}, {}, {}, places=[tmp_path])
    settings = Settings(**chosen.values, sources=chosen.sources)

    assert str(chosen) == "prepare a.sh,b.yml (from --pidoc-prepare)"
    assert [step.name for step in settings.spec().prepare] == ["a.sh", "b.yml"]
    assert [step.name for step in settings.spec({"prepare": etcd}).prepare] == ["etcd()"]
    assert settings.spec({"prepare": []}).prepare == ()


def test_prepared_spec_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Workers find each other's clusters by what the records say."""
    (tmp_path / "a.sh").write_text("true")
    spec = load().spec({"prepare": [etcd, tmp_path / "a.sh"], "prepare_files": tmp_path})
    known = ClusterSpec.from_json(json.loads(json.dumps(spec.to_json())))
    (tmp_path / "a.sh").write_text("false")
    another = load().spec({"prepare": [etcd, tmp_path / "a.sh"], "prepare_files": tmp_path})

    assert known == spec
    assert hash(known) == hash(spec)
    assert known != another
    assert known.prepare_files == (tmp_path,)
