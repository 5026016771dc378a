"""Commands that a signal ends: Fabric reports a lost connection; here they get the status that a shell reports.

An SSH server reports such an end with the message ``exit-signal`` (RFC 4254, 6.10) and without a status. Paramiko drops
that message.
"""

from __future__ import annotations

import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from fabric import Connection
from fabric.runners import Remote
from invoke.exceptions import CommandTimedOut
from paramiko import Channel, Message, SSHException, Transport
from paramiko.common import MSG_CHANNEL_REQUEST

from pytest_pidoc.guest import giving_up

__all__ = ["SignalledRemote", "exit_status", "give_up", "hear_signals"]

CHECK_INTERVAL = 0.25  # seconds between two checks whether the node is still running

_RUNNING: weakref.WeakKeyDictionary[Transport, weakref.WeakSet[SignalledRemote]] = weakref.WeakKeyDictionary()
_ENDED_BY = "pidoc_ended_by"  # the attribute of a channel with the signal's name


class SignalledRemote(Remote):  # type: ignore[misc] # Fabric has no types
    """Fabric's runner of commands, which also reports that a signal ended a command.

    The status is 128 and the signal's number, and the last line of stderr says what it was: ``Illegal instruction``.
    *check* raises an error if the command cannot finish any more.
    """

    def __init__(self, *arguments: Any, check: Callable[[], None] = lambda: None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._check = check
        self._checked = 0.0
        self._late = False
        self._given_up = False

    @property
    def process_is_finished(self) -> bool:
        """Whether the command has ended; invoke polls this while it waits."""
        if time.monotonic() - self._checked > CHECK_INTERVAL:
            self._checked = time.monotonic()
            try:
                self._check()
            except BaseException:
                super().kill()  # nothing in the guest is left to be ended
                raise
        return bool(super().process_is_finished)

    @property
    def timed_out(self) -> bool:
        """Whether the command was ended because its time was up."""
        return self._late

    def wait(self) -> None:
        """Wait for the end of the command; end it if the wait is interrupted, by Ctrl-C or a test's time limit."""
        try:
            super().wait()
        except KeyboardInterrupt:
            if not self._at_a_keyboard:
                self.kill()  # or the threads that read its output wait for ever
            raise
        except BaseException:
            self.kill()
            raise

    def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """Pass Ctrl-C on to a program that somebody uses at a terminal; otherwise raise it."""
        if not self._at_a_keyboard:
            raise interrupt
        super().send_interrupt(interrupt)

    def kill(self) -> None:
        """End the command; its waiter can continue before this returns, while invoke's timer still seems to run."""
        if threading.current_thread() is self._timer:
            self._late = True
        self._given_up = True
        try:
            giving_up.end(self.channel)
        finally:
            super().kill()

    def stop(self) -> None:
        """Clean up after a command; end it if it is still running, since nobody waits for it any more."""
        channel = getattr(self, "channel", None)
        try:
            if channel is not None and not channel.closed and exit_status(channel) is None:
                giving_up.end(channel)
        finally:
            super().stop()

    @property
    def _at_a_keyboard(self) -> bool:
        return bool(self.using_pty and self.streams["in"])

    def start(self, *arguments: Any, **keywords: Any) -> None:
        """Start a command, and listen for the signal that ends it."""
        self.context.open()
        transport, timeout = self.context.transport, self.opts["timeout"]
        hear_signals(transport)
        usual = transport.channel_timeout
        if timeout is not None:  # a guest that hangs does not even accept the command, and Paramiko would wait an hour
            transport.channel_timeout = timeout
        try:
            super().start(*arguments, **keywords)
            _RUNNING.setdefault(transport, weakref.WeakSet()).add(self)
        except SSHException as error:
            if timeout is None or "Timeout" not in str(error):
                raise
            nothing = super().generate_result(**{**self.result_kwargs, "stdout": "", "stderr": "", "exited": None})
            raise CommandTimedOut(nothing, timeout=timeout) from error
        finally:
            transport.channel_timeout = usual

    def returncode(self) -> int:
        """Return the command's exit status; -1 only if the connection was lost."""
        status = int(super().returncode())
        ended_by = self._ended_by
        return status if ended_by is None or status >= 0 else 128 + ended_by

    def generate_result(self, **keywords: Any) -> Any:
        """Return the result, with the signal's description where a shell would have printed it."""
        if self._ended_by is not None and not self._given_up:
            keywords["stderr"] += f"{signal.strsignal(self._ended_by)}\n"
        return super().generate_result(**keywords)

    @property
    def _ended_by(self) -> signal.Signals | None:
        channel = getattr(self, "channel", None)  # with dry=True there is none
        return None if channel is None else _signal_of(channel)


def give_up(connection: Connection) -> None:
    """End the commands that run over a connection, on the node too, and close it."""
    for runner in tuple(_RUNNING.get(connection.transport, ())):
        runner.kill()
    connection.close()


def exit_status(channel: Channel) -> int | None:
    """Return the exit status of a channel's command, 128 and the number of a signal; ``None`` if none has come."""
    if (ended_by := _signal_of(channel)) is not None:
        return 128 + ended_by
    return channel.exit_status if channel.status_event.is_set() and channel.exit_status >= 0 else None


def _signal_of(channel: Channel) -> signal.Signals | None:
    name = getattr(channel, _ENDED_BY, None)
    return getattr(signal.Signals, f"SIG{name}", None) if name else None


def hear_signals(transport: Transport) -> None:
    """Let the transport's channels keep the name of the signal that ended their command."""
    usual = Transport._channel_handler_table[MSG_CHANNEL_REQUEST]  # type: ignore[attr-defined] # there is no other way

    def handle(channel: Channel, message: Message) -> None:
        copy = Message(message.get_remainder())
        if copy.get_text() == "exit-signal":
            copy.get_boolean()
            setattr(channel, _ENDED_BY, copy.get_text())
        usual(channel, message)

    # The table belongs to the class, and this transport gets one of its own.
    transport._channel_handler_table = {  # type: ignore[attr-defined]
        **Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_REQUEST: handle,
    }
