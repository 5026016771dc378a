"""Faults of a LAN: partitions, delay, loss and limited rates."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence, Set

from pytest_pidoc.errors import FaultError
from pytest_pidoc.lan.lan import Condition, Lan
from pytest_pidoc.values.checks import is_number, shown
from pytest_pidoc.values.faults import Fault, FaultLog

__all__ = ["degrade", "isolate", "partition"]


def partition(lan: Lan, log: FaultLog, groups: Sequence[Sequence[str]]) -> Fault:
    """Cut the connections between groups of nodes; see `Cluster.partition`."""
    names = lan.names
    parts = [_names(group, names, f"group {number} of the partition") for number, group in enumerate(groups, 1)]
    if not parts:
        raise FaultError("partition() needs at least one group of nodes.", tip="call partition([pi_1], [pi_2, pi_3])")
    for (first, one), (second, other) in itertools.combinations(enumerate(parts, 1), 2):
        if both := [name for name in one if name in other]:
            raise FaultError(
                f"{both[0]} is in the groups {first} and {second} of the partition, but a node must be in only one.",
                tip=f"remove {both[0]} from one of the groups",
            )
    if rest := [name for name in names if not any(name in part for part in parts)]:
        parts.append(rest)
    pairs = [pair for one, other in itertools.permutations(parts, 2) for pair in itertools.product(one, other)]
    what = "partition " + " | ".join(", ".join(part) for part in parts)
    return _fault(lan, log, what, pairs, Condition(cut=True))


def degrade(
    lan: Lan,
    log: FaultLog,
    *,
    delay: float,
    jitter: float,
    loss: float,
    rate: float | None,
    between: Sequence[str | Sequence[str]] | None,
) -> Fault:
    """Delay, lose or limit the traffic between nodes; see `Cluster.degrade`."""
    names = lan.names
    _check("delay", delay, 0, 3600, "a number of seconds from 0 to 3600")
    _check("jitter", jitter, 0, delay, f"a number of seconds from 0 to the delay, {delay:g}")
    _check("loss", loss, 0, 1, "a share of the frames from 0 to 1")
    if rate is not None:
        _check("rate", rate, 1000, 1e12, "a number of bits per second from 1000 to 1e12")
    if not (delay or loss or rate):
        raise FaultError(
            "degrade() needs at least one of delay, loss or rate.", tip="set delay=0.2, loss=0.1 or rate=1_000_000"
        )
    if between is None:
        pairs, where = list(itertools.permutations(names, 2)), "between all"
    else:
        if not isinstance(between, (tuple, list)) or len(between) != 2:
            raise FaultError(
                f"between must be two nodes or two groups of nodes, not {shown(between)}.",
                tip="set between=(pi_1, pi_2)",
            )
        one, other = (_names(side, names, "between") for side in between)
        if both := [name for name in one if name in other]:
            raise FaultError(
                f"{both[0]} is on both sides of between, but a node must be on only one.",
                tip=f"remove {both[0]} from one side",
            )
        pairs = [pair for each in itertools.product(one, other) for pair in (each, each[::-1])]
        where = f"between {', '.join(one)} and {', '.join(other)}"
    said = {
        "delay": f"{delay:g} s" if delay else "",
        "jitter": f"{jitter:g} s" if jitter else "",
        "loss": f"{loss:.3g}" if loss else "",
        "rate": f"{rate:g} bit/s" if rate else "",
    }
    what = f"degraded {where}: " + ", ".join(f"{name} {value}" for name, value in said.items() if value)
    # A round trip passes two ways, so each gets half of the delay and half of the jitter.
    condition = Condition(delay=delay / 2, jitter=jitter / 2, loss=loss, rate=rate or 0.0)
    return _fault(lan, log, what, pairs, condition)


def isolate(lan: Lan, name: str) -> Callable[[], None]:
    """Disconnect a node from all others; return a function that connects it again."""
    pairs = [pair for other in lan.names if other != name for pair in ((name, other), (other, name))]
    return _hold(lan, pairs, Condition(cut=True))


def _fault(lan: Lan, log: FaultLog, what: str, pairs: Iterable[tuple[str, str]], condition: Condition) -> Fault:
    return log.add(what, _hold(lan, pairs, condition))


def _hold(lan: Lan, pairs: Iterable[tuple[str, str]], condition: Condition) -> Callable[[], None]:
    """Set a condition, and return a function that ends it."""
    identity = secrets.token_hex(8)
    lan.set(identity, pairs, condition)
    return lambda: lan.clear(identity)


def _names(group: str | Sequence[str], known: Sequence[str], where: str) -> list[str]:
    """Return the names of one node or of a group; each must be a node of the cluster and be named once."""
    names: list[str] = []
    for name in group if isinstance(group, (Sequence, Set)) and not isinstance(group, str) else [group]:
        if not isinstance(name, str) or name not in known:
            raise FaultError(
                f"{where}: {shown(name)} is not a node of this cluster.", tip=f"use one of {', '.join(known)}"
            )
        if name in names:
            raise FaultError(f"{where}: {name} is named twice.", tip="name each node once")
        names.append(name)
    if not names:
        raise FaultError(f"{where}: it must contain at least one node.", tip=f"use one of {', '.join(known)}")
    return names


def _check(name: str, value: object, least: float, most: float, wanted: str) -> None:
    if not is_number(value, least, most):
        raise FaultError(
            f"{name} must be {wanted}, not {shown(value)}.", tip=f"set {name} to such a number, or leave it out"
        )
