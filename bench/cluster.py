"""Run a command on emulated hosts (needs root): network namespaces of this machine with links as slow as asked."""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bench import options as shared
from bench.relay import MTU, Relay
from mpilayer.base.errors import UserError

MOST = 200  # hosts that addresses are there for
BURST = 2e-3  # seconds at full speed after a pause; the queue holds some times that
SEGMENT = 65536  # bytes the system hands over at once: a bucket holds no less
MPICH = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "eth0"}


def _ip(*words, check=True):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()} | emulated hosts need the right to make network"
                        " namespaces | try: as root, on a machine of your own")
    return done.stdout


def _check():
    """Raise UserError unless hosts can be made here."""
    if os.geteuid() != 0:
        raise UserError("emulated hosts are network namespaces, and making those needs root | try: sudo")
    for tool in ("ip", "tc", "taskset"):
        if not shutil.which(tool):
            raise UserError(f"emulated hosts need the program {tool} | try: install iproute2 and util-linux")


class Hosts:
    """`count` hosts whose links carry `rate` bits a second each way out, with a latency in seconds one way beyond what
    this machine has; a context, after which they are gone.

    Raises UserError if they cannot be made.
    """

    def __init__(self, count, rate=float("inf"), latency=0.0):
        if not 1 <= count <= MOST:
            raise UserError(f"--hosts {count}: expected 1 to {MOST}")
        self.count, self.rate, self.relay = count, rate, Relay(latency)
        self.names = [f"mpl{os.getpid()}h{number}" for number in range(count)]
        self.bridge = f"mpl{os.getpid()}b"

    def __enter__(self):
        _check()
        _sweep()
        try:
            self._build()
            self.shape(self.rate)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *failure):
        self._remove()

    def _build(self):
        for name in self.names:
            _ip("netns", "add", name)
        self._relayed() if self.relay.latency else self._bridged()
        for number, name in enumerate(self.names):
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def _relayed(self):
        """This process is between them."""
        for number, name in enumerate(self.names):
            _ip("link", "set", self.relay.interface(self.address(number)), "mtu", str(MTU), "netns", name,
                "name", "eth0")
        self.relay.start()

    def _bridged(self):
        """A namespace for the bridge, so that nothing of it touches this machine's own network."""
        _ip("netns", "add", self.bridge)
        _ip("-n", self.bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.bridge, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names):
            _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"h{number}",
                "netns", self.bridge)
            _ip("-n", self.bridge, "link", "set", f"h{number}", "master", "bridge", "up")

    def _remove(self):
        self.relay.close()
        for name in (*self.names, self.bridge):
            _ip("netns", "del", name, check=False)

    def address(self, number):
        """Of a host."""
        return f"10.78.0.{number + 1}"

    def shape(self, rate):
        """Another rate from here on, in bits a second; infinity for none."""
        self.rate = rate
        burst = max(SEGMENT * 2, int(rate / 8 * BURST)) if rate < float("inf") else 0
        for name in self.names:
            tc = ["tc", "-n", name, "qdisc"]
            if burst:
                subprocess.run([*tc, "replace", "dev", "eth0", "root", "tbf", "rate", f"{rate:.0f}bit", "burst",
                                str(burst), "latency", "50ms"], check=True)
            else:
                subprocess.run([*tc, "del", "dev", "eth0", "root"], stderr=subprocess.DEVNULL, check=False)

    def sent(self):
        """Bytes that have left each host."""
        return [int(_ip("netns", "exec", name, "cat", "/sys/class/net/eth0/statistics/tx_bytes"))
                for name in self.names]

    def command(self, words, ranks, pin=True):
        """What starts `words` on so many ranks, a core for each."""
        each = -(-ranks // self.count)
        cores = sorted(os.sched_getaffinity(0))
        pinned = f"taskset -c $(echo {' '.join(map(str, cores))} | cut -d' ' -f$((PMI_RANK % {len(cores)} + 1)))"
        script = f"exec ip netns exec mpl{os.getpid()}h$((PMI_RANK / {each})) {pinned if pin else ''} \"$@\""
        hosts = ",".join(f"h{number}" for number in range(self.count))
        return [mpiexec(), "-hosts", hosts, "-ppn", str(each), "-launcher", "fork", "-n", str(ranks), "bash", "-c",
                script, "rank", *words]

    def run(self, words, ranks=None, pin=True, **environment):
        """Run a command on `ranks` ranks (default: one a host), its output shown; the exit status."""
        child = subprocess.Popen(self.command(words, ranks or self.count, pin),
                                 env={**os.environ, **MPICH, **environment})
        with _passing_signals_to(child):
            return child.wait()


def launcher():
    """mpiexec of the MPI that MPI4PY_LIBMPI names, else next to this Python, else on the path. Raises UserError."""
    library = os.environ.get("MPI4PY_LIBMPI")
    folders = [Path(library).parent.parent / "bin"] if library else []
    folders += [Path(sys.executable).parent, os.environ["PATH"]]
    found = shutil.which("mpiexec", path=os.pathsep.join(map(str, folders)))
    if not found:
        raise UserError("no mpiexec found | try: pip install 'mpilayer[mpi]'")
    return found


def mpiexec():
    """The same, if it is MPICH's."""
    found = launcher()
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    if "HYDRA" not in version:
        raise UserError(f"{found} is not MPICH's: only MPICH's takes namespaces for hosts here"
                        " | try: an environment with pip install 'mpilayer[mpi]'")
    return found


@contextlib.contextmanager
def _passing_signals_to(child):
    """Ctrl-C reaches the child by itself; this process then waits for its end. SIGTERM is handed on."""
    def hand_on(number, frame):
        child.send_signal(number)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
              signal.SIGTERM: signal.signal(signal.SIGTERM, hand_on)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _sweep():
    """Remove what a killed run left behind: hosts named after a process that is gone."""
    for name in re.findall(r"^mpl\d+(?:h\d+|b)\b", _ip("netns", "list"), re.MULTILINE):
        if not Path("/proc", re.match(r"mpl(\d+)", name)[1]).exists():
            _ip("netns", "del", name, check=False)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench cluster", description=__doc__)
    p.add_argument("--hosts", type=shared.count, default=2, help="number of hosts (default: 2)")
    p.add_argument("--rate", type=shared.rate, default=float("inf"),
                   help="rate of each link, as in 500mbit (default: none, no limit)")
    shared.add_latency(p)
    p.add_argument("--ranks", type=shared.count, help="ranks in all, as many on each host (default: one on each)")
    p.add_argument("--no-pin", action="store_true", help="let ranks use all cores (default: one core for each rank)")
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what each rank runs")
    return p


def main(argv):
    """Run it; say what left each host."""
    p = parser()
    options = p.parse_args(argv)
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise UserError("no command | try: python -m bench cluster --rate 1gbit -- python -m mpilayer.train")
    with Hosts(options.hosts, options.rate, options.latency) as hosts:
        before = hosts.sent()
        status = hosts.run(words, options.ranks, not options.no_pin)
        left = [now - then for now, then in zip(hosts.sent(), before, strict=True)]
    print("bytes that left each host: " + " ".join(f"{count:,}" for count in left), flush=True)
    if status == 0 and options.hosts > 1 and min(left) < 1000:
        raise UserError("hardly anything crossed the links | expected the ranks to talk over them: does the command"
                        " use the MPI of this environment?")
    raise SystemExit(status)
