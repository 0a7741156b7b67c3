"""Device and pinned memory: each piece ends at a page that must not be touched."""

import collections
import ctypes
import mmap
import weakref

PAGE = mmap.PAGESIZE
POISON = 0xFF  # a NaN, if four or eight such bytes are read as a float
NONE, READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
NO_RESERVE = 0x4000

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

LIVE, PINNED = weakref.WeakSet(), weakref.WeakSet()
FREED = collections.deque()  # memory that no array has any more, and that work may still be waiting for


class OutOfMemoryError(MemoryError):
    """There is no room for an array."""


def pages(nbytes):
    """Bytes of the whole pages that hold so many."""
    return -(-nbytes // PAGE) * PAGE


def mapped(nbytes):
    """Address of fresh pages that must not be touched."""
    at = libc.mmap(None, nbytes, NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE, -1, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OutOfMemoryError(f"out of memory allocating {nbytes} bytes")
    return at


class Memory:
    """So many poisoned bytes, with a guard page before and one behind.

    They end where the guard page begins, as far as `alignment` lets them: their start is a multiple of it, and of 256
    where their number is.
    """

    device_id = 0
    queue = None  # of the stream that it was allocated for

    def __init__(self, nbytes, kind="device", alignment=16):
        self.size, self.kind = nbytes, kind
        room = pages(nbytes)
        whole = mapped(room + 2 * PAGE)
        weakref.finalize(self, libc.munmap, whole, room + 2 * PAGE).atexit = False
        self.first, self.end = whole + PAGE, whole + PAGE + room
        if room and libc.mprotect(self.first, room, READ_WRITE):
            raise OutOfMemoryError(f"out of memory allocating {nbytes} bytes")
        self.ptr = self.end - -(-nbytes // alignment) * alignment
        ctypes.memset(self.first, POISON, room)
        LIVE.add(self)
        if kind == "pinned":
            PINNED.add(self)

    @property
    def device(self):
        """The device it lies on."""
        from cupy.cuda import Device
        return Device(0)

    def _around(self):
        """Pieces of memory next to it that are no guard pages: few bytes behind, up to 256 before."""
        before, behind = max(self.first, self.ptr - 256), self.ptr + self.size
        return (before, self.ptr - before), (behind, self.end - behind)

    def overrun(self):
        """Whether something wrote next to it since this was last asked."""
        around = b"".join(ctypes.string_at(*piece) for piece in self._around())
        if around.count(POISON) == len(around):
            return False
        for at, size in self._around():
            ctypes.memset(at, POISON, size)
        return True

    def distance(self, address):
        """How many bytes an address lies before or behind it; None if that is another page's."""
        if not self.first - PAGE <= address < self.end + PAGE:
            return None
        return address - self.ptr if address < self.ptr else max(0, address - self.ptr - self.size)

    def poison(self):
        """Make it as if something else used it now."""
        ctypes.memset(self.ptr, POISON, self.size)

    def buffer(self):
        """The bytes as an object that NumPy takes, and that keeps them alive."""
        found = (ctypes.c_char * self.size).from_address(self.ptr)
        found.memory = self
        return found


class Hold:
    """What arrays have of their memory, and work in a queue has not.

    When the last array is gone, CuPy's pool gives the memory to the next that wants some for the stream it was
    allocated for. Work that another stream has yet to do on it is too late then, if that one comes first.
    """

    def __init__(self, memory, free=FREED):
        self.memory = memory
        weakref.finalize(self, free.append, memory).atexit = False


def where(address, named):
    """In words: what an address is next to, of memory that has a name, or any other; an empty string if nothing."""
    if Stacks.below_one(address):
        return f", below the {Stacks.SIZE - PAGE} bytes of a thread's stack"
    others = [(f"{memory.size} bytes of {memory.kind} memory", memory) for memory in list(LIVE)]
    for name, memory in [*named, *others]:
        distance = memory.distance(address)
        if distance is not None:
            return f", {abs(distance)} bytes {'before the first' if distance < 0 else 'behind the last'} byte of {name}"
    return ""


def pinned(address):
    """Whether an address lies in pinned memory."""
    return any(memory.ptr <= address < memory.ptr + memory.size for memory in list(PINNED))


class Stacks:
    """A stack for each of the threads of the largest block, with a guard page below each; shared by all kernels."""

    SIZE, COUNT = 16 * PAGE, 1024
    _address = None

    @classmethod
    def address(cls):
        """Where they begin."""
        if cls._address is None:
            at = mapped(cls.SIZE * cls.COUNT)
            for number in range(cls.COUNT):
                libc.mprotect(at + number * cls.SIZE + PAGE, cls.SIZE - PAGE, READ_WRITE)
            cls._address = at
        return cls._address

    @classmethod
    def below_one(cls, address):
        """Whether an address lies where a stack has overflown."""
        offset = address - cls.address()
        return 0 <= offset < cls.SIZE * cls.COUNT and offset % cls.SIZE < PAGE
