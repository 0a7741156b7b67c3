"""What is needed of the runtime's interface: functions on addresses and handles."""

# ruff: noqa: N802, N816 - these are the names of the real one
import ctypes

from cupy.emulator import pointers, streams

memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = range(5)
eventDefault, eventBlockingSync, eventDisableTiming = range(3)
streamDefault, streamNonBlocking = 0, 1
is_hip = False
MOST_SHARED = 227 << 10
NAMES = {1: "cudaErrorInvalidValue", 400: "cudaErrorInvalidResourceHandle", 600: "cudaErrorNotReady",
         719: "cudaErrorLaunchFailure"}


class CUDARuntimeError(RuntimeError):
    """The runtime would refuse this."""

    def __init__(self, status):
        self.status = status
        super().__init__(NAMES.get(status, str(status)))


def getDeviceCount():
    """One device."""
    return 1


def getDevice():
    """The only one."""
    return 0


def setDevice(device):
    """Accept the only one."""
    if device != 0:
        raise CUDARuntimeError(101)


def getDeviceProperties(device):
    """What programs ask of a device."""
    return {"name": b"CPU", "major": 8, "minor": 0, "multiProcessorCount": 4, "totalGlobalMem": 1 << 34,
            "sharedMemPerBlock": 48 << 10, "sharedMemPerBlockOptin": MOST_SHARED, "warpSize": 32,
            "maxThreadsPerBlock": 1024, "uuid": b"0" * 16, "clockRate": 1000000, "l2CacheSize": 1 << 20}


def memGetInfo():
    """Free and all memory."""
    return 1 << 34, 1 << 34


def runtimeGetVersion():
    """Of CUDA."""
    return 13000


driverGetVersion = runtimeGetVersion


def _stream(handle):
    if handle not in streams.STREAMS:
        raise CUDARuntimeError(400)
    return streams.STREAMS[handle]


def _event(handle):
    if handle not in streams.EVENTS:
        raise CUDARuntimeError(400)
    return streams.EVENTS[handle]


def memcpyAsync(dst, src, size, kind, stream):
    """Copy bytes in the order of a stream."""
    pointers.copy(dst, src, size, _stream(stream))


def memcpy(dst, src, size, kind):
    """Copy bytes in the null stream, and wait for it."""
    pointers.copy(dst, src, size, streams.Stream.null)
    streams.Stream.null.synchronize()


def memsetAsync(ptr, value, size, stream):
    """Fill with a byte in the order of a stream."""
    streams.put(lambda: ctypes.memset(ptr, value, size), _stream(stream))


def deviceSynchronize():
    """Wait for all work."""
    streams.run_all()


def streamSynchronize(stream):
    """Wait for a stream's work."""
    _stream(stream).synchronize()


def streamQuery(stream):
    """0 if all of a stream's work is done, else the status that says it is not."""
    return 0 if _stream(stream).done else 600


def streamWaitEvent(stream, event, flags=0):
    """Make a stream wait for what an event has marked."""
    _stream(stream).wait_event(_event(event))


def eventRecord(event, stream):
    """Mark a place in a stream."""
    _event(event).record(_stream(stream))


def eventQuery(event):
    """0 if all work before an event is done, else the status that says it is not, or what went wrong."""
    return _event(event).status()


def eventSynchronize(event):
    """Wait for the work before an event."""
    _event(event).synchronize()


def eventElapsedTime(start, end):
    """Milliseconds between two events."""
    return streams.get_elapsed_time(_event(start), _event(end))
