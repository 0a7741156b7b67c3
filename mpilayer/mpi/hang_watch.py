"""Looking for a hang when a rank has waited too long.

The flight recorders of its own node lie in memory; other nodes are asked over TCP, for MPI may be what hangs. A thread
of each rank answers; it sleeps until somebody asks. On one node there is neither.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import secrets
import socket
import struct
import threading
import time

from mpilayer.base.errors import HangError, UserError
from mpilayer.mpi.flight_recorder import Record, Report, read
from mpilayer.mpi.hang import ALIVE, OUT_OF_REACH, SILENT, Seen, describe, on_this_node

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of a network interface
CONNECT, REPLY, VERDICT = 0.7, 1.5, 6.0  # seconds: to be let in, for what a node knows, for what it finds out of all
TRIED = 3  # ranks of a node that are asked before it counts as silent
JUDGES = 8  # nodes that are asked what holds all ranks up, before a rank says what it knows itself
RECORDS = 64  # of each rank that travel
FRESH = 2.0  # seconds for which a verdict holds
AT_ONCE = 64  # nodes that are asked at a time


def _addresses():
    """IPv4 addresses of this host, as others may reach it; that of the host alone last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without one
                reply = fcntl.ioctl(some, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(reply[20:24]))
    return sorted(found, key=lambda address: address.startswith("127."))


def _sent(seen):
    """What travels of a rank as Seen: lists and numbers."""
    report = seen.report and seen.report._replace(records=seen.report.records[-RECORDS:])
    return seen._replace(report=report)


def _received(fields):
    *plain, report = fields
    if report is not None:
        *words, records = report
        report = Report(*words, [Record(*record) for record in records])
    return Seen(*plain, report)


class Nodes:
    """The nodes, by their first ranks: {rank: (host, addresses, port)} of each.

    Those that judge, on the first JUDGES nodes, know all nodes; the others know only those.

    ranks     Ranks; all make this together           answers   {question: function that gives an answer as JSON has it}
    """

    def __init__(self, ranks, answers):
        self.rank, self.answers = ranks.rank, answers
        self.token = ranks.bcast(secrets.token_hex(16))
        self.socket = socket.create_server(("", 0))
        self.own = ranks.bcast(ranks.rank, ranks.node)
        self.nodes = self._met(ranks)
        threading.Thread(target=self._serve, daemon=True).start()

    def _met(self, ranks):
        there = (_addresses(), self.socket.getsockname()[1]) if ranks.node.rank < TRIED else ()
        everyone, nodes = ranks.gather_to_first((self.own, socket.gethostname(), *there)), {}
        for rank, (node, *where) in enumerate(everyone or ()):
            nodes.setdefault(node, {})[rank] = where
        judges = ranks.bcast(dict(list(nodes.items())[:JUDGES]))
        judging = [rank for members in judges.values() for rank in list(members)[:TRIED]]
        if ranks.rank == 0:
            ranks.MPI.Request.waitall([ranks.comm.isend(nodes, rank) for rank in judging[1:]])
        return ranks.comm.recv(source=0) if ranks.rank in judging[1:] else nodes or {**judges, self.own: {}}

    def close(self):
        """Answer no more."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread up
        self.socket.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(REPLY)
                token, question = json.loads(connection.makefile().readline())
                if secrets.compare_digest(token, self.token):
                    connection.sendall(json.dumps([self.rank, self.answers[question]()]).encode())

    def _ask_rank(self, rank, addresses, port, question, seconds):
        """The answer, or in words why there is none."""
        state = OUT_OF_REACH
        for address in addresses:
            with (contextlib.suppress(OSError, ValueError),
                  socket.create_connection((address, port), timeout=CONNECT) as connection):
                state = SILENT
                connection.settimeout(seconds)
                connection.sendall(json.dumps([self.token, question]).encode() + b"\n")
                who, answer = json.loads(connection.makefile().read())
                if who == rank:  # an address that every host has leads to another rank here
                    return answer
        return state

    def ask(self, node, question, seconds):
        """The answer of a node, from whichever of its ranks gives one; else {rank: why there is none}."""
        states = {}
        for rank, (_, addresses, port) in list(self.nodes[node].items())[:TRIED]:
            answer = self._ask_rank(rank, addresses, port, question, seconds)
            if not isinstance(answer, str):
                return answer
            states[rank] = answer
        return states


class HangWatch:
    """Of one of `ranks` (Ranks), which all of them make together."""

    def __init__(self, ranks):
        self.ranks, self.lock, self.last = ranks, threading.Lock(), (0.0, (None, 0.0))
        answers = {"node": lambda: [_sent(each) for each in self._node()], "verdict": self._judge}
        self.others = Nodes(ranks, answers) if ranks.node.size < ranks.size else None

    def close(self):
        """Answer no more."""
        if self.others:
            self.others.close()

    def check(self):
        """Seconds until it is worth looking again. Raises HangError if nothing has moved on any rank."""
        message, again = self._verdict()
        if message:
            raise HangError(message)
        return again

    def _verdict(self):
        """(message or None, seconds until it is worth looking again), of the first node that answers, for all the same.
        """
        for node in self.others.nodes if self.others else ():
            if node == self.others.own:
                break
            if isinstance(answer := self.others.ask(node, "verdict", VERDICT), list):
                return answer
        return self._judge()

    def _judge(self):
        with self.lock:
            made, verdict = self.last
            if time.monotonic() > made + FRESH or not verdict[0]:
                verdict = self._judged()
                self.last = time.monotonic(), verdict
        return verdict

    def _judged(self):
        seen, timeout = self._everyone(), self.ranks.timeout
        moving = [timeout - each.idle for each in seen if each.state == ALIVE and each.idle < timeout]
        return (None, min(moving)) if moving else (describe(seen, timeout), timeout)

    def _node(self):
        return on_this_node(self.ranks.recorders.reports(), time.perf_counter())

    def _everyone(self):
        """All ranks as Seen."""
        if not self.others:
            return self._node()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            found = [each for seen in pool.map(self._of_node, self.others.nodes) for each in seen]
        return sorted(map(self._completed, found), key=lambda each: each.rank)

    def _completed(self, seen):
        """With the Report of a rank that did not answer, if its node keeps that in a folder which is visible here."""
        path = self.ranks.recorders.path
        if seen.report or path is None:
            return seen
        with contextlib.suppress(UserError):
            for report in read(path.parent):
                if report.rank == seen.rank:
                    return seen._replace(idle=time.time() - report.clock - report.moved, report=report)
        return seen

    def _of_node(self, node):
        if node == self.others.own:
            return self._node()
        answer = self.others.ask(node, "node", REPLY)
        if isinstance(answer, list):
            return [_received(fields) for fields in answer]
        state = max(answer.values(), key=(OUT_OF_REACH, SILENT).index)
        return [Seen(rank, host, state) for rank, (host, *_) in self.others.nodes[node].items()]
