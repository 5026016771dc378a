"""Ending a command in the guest that nobody waits for any more: its time was up, or its wait was interrupted.

An SSH server lets a command without a terminal run on when its channel is closed. The message ``signal`` (RFC 4254,
6.9) ends it: OpenSSH, from 7.9 on, sends that to all processes of the command's group. Nothing is sent for a command
that ends by itself.
"""

from __future__ import annotations

import contextlib
import time

from paramiko import Channel, Message, SSHException
from paramiko.common import cMSG_CHANNEL_REQUEST

__all__ = ["end"]

SIGNALS = {"TERM": 0.5, "KILL": 0.3}  # and the seconds to wait for the end of the command after it
POLL = 0.01


def end(channel: Channel) -> None:
    """End the command of a channel, and return when it has ended; after less than a second in any case."""
    with contextlib.suppress(OSError, EOFError, SSHException):  # the connection has ended, and the guest with it
        for name, seconds in SIGNALS.items():
            if _ended(channel):
                return
            _send(channel, name)
            limit = time.monotonic() + seconds
            while not _ended(channel) and time.monotonic() < limit:
                time.sleep(POLL)


def _ended(channel: Channel) -> bool:
    """Tell whether the channel is closed, as after the end by a signal, or a status has come."""
    transport = channel.get_transport()
    return bool(channel.exit_status_ready() or channel.eof_received or not transport.is_active())


def _send(channel: Channel, name: str) -> None:
    """Ask the SSH server to send a signal to the channel's command."""
    message = Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)  # no answer is wanted
    message.add_string(name)
    channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined] # there is no other way
