"""Links of long latency between emulated hosts: this process hands on each packet so many seconds after it came."""

import collections
import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
import time

from mpilayer.base.errors import UserError

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
MTU = 65000  # bytes: few packets, each as much as the system hands over at once
DESTINATION = slice(16, 20)  # of an IPv4 header
LONGEST = 0.05  # seconds between looks whether this is to end


class Relay:
    """Links between hosts: make an interface for each, start(), and close() in the end, which removes them.

    latency   seconds that a packet takes one way, not counting the link's rate
    """

    def __init__(self, latency):
        self.latency, self.descriptors, self._open = latency, {}, True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def interface(self, address):
        """The name of a new network interface of this machine, for the host of an IPv4 address. Raises UserError."""
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self.descriptors[socket.inet_aton(address)] = descriptor
            made = fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"mpl%d", IFF_TUN | IFF_NO_PI))
        except OSError as error:
            raise UserError(f"no network interface can be made at /dev/net/tun ({error.strerror})"
                            " | try: without --latency") from None
        return made[:16].rstrip(b"\0").decode()

    def start(self):
        """Hand on packets from here on."""
        self._thread.start()

    def _run(self):
        with contextlib.suppress(PermissionError):  # ahead of the ranks, whose cores it needs for moments
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        waiting, sources = collections.deque(), list(self.descriptors.values())
        while self._open:
            left = waiting[0][0] - time.monotonic() if waiting else LONGEST
            for source in select.select(sources, (), (), max(0.0, min(left, LONGEST)))[0]:
                packet = os.read(source, MTU)
                waiting.append((time.monotonic() + self.latency, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                self._hand_on(waiting.popleft()[1])

    def _hand_on(self, packet):
        target = self.descriptors.get(packet[DESTINATION])
        if target is not None:
            with contextlib.suppress(OSError):  # a full queue loses packets, as a network does
                os.write(target, packet)

    def close(self):
        """End it."""
        self._open = False
        if self._thread.ident:
            self._thread.join()
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])
