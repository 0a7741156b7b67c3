"""What moves messages: a compiled loop that starts each when its turn comes, tests those in flight, and notes when.

Collectives must be started in one order on all ranks. That is the order of the messages' numbers, or by need: of the
messages that are ready on every rank, the one that is needed first. How many are ready everywhere the ranks find out
as they go, by a vote (the least of all ranks' counts, one number) that travels ahead of each message until all of the
step are ready; from it every rank draws the same conclusion. At most `lanes` messages are in flight, since those share
the link: what has not been started can be overtaken. A message may have one that follows it: that is ready when the
first has arrived.

The loop needs neither Python nor its lock, so that a kernel can call it from inside (kernels.set_progress), as can a
thread, or the training loop.
"""

from kernels import compiled
from kernels.progress import now
from mpilayer.mpi import flight_recorder as flight
from mpilayer.mpi.intrinsics import (
    SEMAPHORE_WORDS,
    ask,
    count,
    load,
    raise_semaphore,
    sleep,
    store,
    swap,
)

jit, inner = compiled.decorators()
ARGUMENTS = 10  # of the longest MPI call, MPI_Ialltoallv

# words of the state
(LENGTH, LOCK, ERROR, STOP, LANES, MESSAGES, SLOTS, FIRST, STARTED, ARRIVED, BUSY_SINCE, BUSY_NS, INSIDE_NS, FLAG,
 BY_NEED, POSTED, AGREED, VOTING, VOTE, NEXT, DUE, FOLLOW, READY, BEGAN, ENDED, LANE, CALLS, FOLLOWED, RECORDER,
 RECORD, STEPS, LABEL, NUMBER, LOOKS, WORK_TO_DO) = range(35)
STATUS = WORK_TO_DO + SEMAPHORE_WORDS
HEADER = 64  # the MPI status takes the rest
# words of an Operation
WORK, WORK_ARGUMENTS, START, REQUEST, TESTER, START_ARGUMENTS = 0, 1, 7, 8, 9, 10
OPERATION_WORDS, MOST_OPERATIONS = START_ARGUMENTS + ARGUMENTS, 3  # of one, and of a message
WAITING, READY_TO_GO, IN_FLIGHT, THERE = range(4)  # what READY says of a message
LABEL_WORDS = 1 + flight.NAME_WORDS  # of a message: its bytes and its name


@inner
def _record(words, place):
    """Begin the record of a message that may go."""
    block, moment = words[RECORDER], now()
    number = count(block + 8 * flight.COUNT)
    at = block + 8 * (flight.HEADER + number % flight.ENTRIES * flight.ENTRY_WORDS)
    words[words[RECORD] + place] = at
    label = words[LABEL] + place % words[MESSAGES] * LABEL_WORDS
    for word, value in ((flight.NUMBER, number + 1), (flight.ENGINE, words[NUMBER]),
                        (flight.STEP, words[words[STEPS] + place // words[MESSAGES]]), (flight.BYTES, words[label]),
                        (flight.POSTED, moment), (flight.STARTED, 0), (flight.DONE, 0)):
        store(at + 8 * word, value)
    for word in range(flight.NAME_WORDS):
        store(at + 8 * (flight.NAME + word), words[label + 1 + word])
    store(block + 8 * flight.MOVED, moment)


@inner
def _note(words, place, what, moment):
    """Write into a message's record when it was started, or done."""
    store(words[words[RECORD] + place] + 8 * what, moment)
    store(words[RECORDER] + 8 * flight.MOVED, moment)


@inner
def _succeeded(words, code):
    """Whether a call of MPI did. The first error is kept: what MPI says of other requests does not undo it."""
    if words[ERROR] == 0:
        words[ERROR] = code
    return code == 0


@inner
def _start(words, record):
    """Start the request of an Operation; False, with the error noted, if MPI refuses."""
    a = record + START_ARGUMENTS
    return _succeeded(words, ask(words[record + START], (
        words[a], words[a + 1], words[a + 2], words[a + 3], words[a + 4],
        words[a + 5], words[a + 6], words[a + 7], words[a + 8], words[a + 9])))


@inner
def _begin(words, lane, place, operation):
    """Begin an Operation of the message in a lane; False, with the error noted, if MPI refuses."""
    record = words[CALLS] + (place * MOST_OPERATIONS + operation) * OPERATION_WORDS
    if words[record + WORK]:
        a = record + WORK_ARGUMENTS
        ask(words[record + WORK], (words[a], words[a + 1], words[a + 2], words[a + 3], words[a + 4], words[a + 5]))
    at = words[LANE] + 2 * lane
    words[at], words[at + 1] = place + 1, operation
    return _start(words, record)


@inner
def _arrive(words, place, moment):
    words[words[READY] + place], words[words[ENDED] + place] = THERE, moment
    _note(words, place, flight.DONE, moment)
    message = place % words[MESSAGES]
    following = words[words[FOLLOW] + message]
    if following >= 0:
        _record(words, place - message + following)
        words[words[READY] + place - message + following] = READY_TO_GO
        words[FOLLOWED] += 1  # a count of its own: POSTED is raised by Python, perhaps at the same moment
    words[ARRIVED] += 1
    if words[ARRIVED] == words[STARTED]:
        words[BUSY_NS] += moment - words[BUSY_SINCE]


@inner
def _completed(words, record):
    """Whether the request of an Operation has completed."""
    base, test, request = words.ctypes.data, words[record + TESTER], words[record + REQUEST]
    return _succeeded(words, ask(test, (request, base + 8 * FLAG, base + 8 * STATUS))) and words[FLAG] != 0


@inner
def _test(words, lane):
    """Whether anything changed in a lane: its request completed."""
    at = words[LANE] + 2 * lane
    place, operation = words[at] - 1, words[at + 1]
    record = words[CALLS] + (place * MOST_OPERATIONS + operation) * OPERATION_WORDS
    if place < 0 or not _completed(words, record):
        return False
    if operation + 1 < MOST_OPERATIONS and words[record + OPERATION_WORDS + START]:
        return _begin(words, lane, place, operation + 1)
    words[at] = 0
    _arrive(words, place, now())
    return True


@inner
def _may_go(words, place):
    """Whether a message is ready, and has not been started."""
    return load(words.ctypes.data + 8 * (words[READY] + place)) == READY_TO_GO


@inner
def _first_place(words):
    """Where the messages of the step begin whose turn it is."""
    slot = (words[FIRST] + words[STARTED] // words[MESSAGES]) % words[SLOTS]
    return slot * words[MESSAGES]


@inner
def _neediest(words):
    """The message that is needed first, of those that all ranks have ready; -1 if there is none."""
    here = words[AGREED] - words[STARTED] // words[MESSAGES] * words[MESSAGES]
    first, chosen, due = _first_place(words), -1, 0
    for message in range(min(here, words[MESSAGES])):
        if _may_go(words, first + message) and (chosen < 0 or words[words[DUE] + message] < due):
            chosen, due = message, words[words[DUE] + message]
    return chosen


@inner
def _vote(words):
    """Ask how many messages every rank has ready."""
    words[VOTE], words[VOTING] = words[POSTED], 1
    _start(words, words[BY_NEED])


@inner
def _one_is_left(words):
    """Whether all messages of the step have been started but the last one by number, of which nobody need vote."""
    return words[AGREED] == words[STARTED] and words[STARTED] % words[MESSAGES] == words[MESSAGES] - 1


@inner
def _next_by_need(words):
    """The message whose turn it is, or -1 as long as that is not agreed."""
    if words[VOTING]:
        if not _completed(words, words[BY_NEED]):
            return -1
        words[VOTING], words[AGREED], words[NEXT] = 0, words[VOTE], -1
    if words[NEXT] < 0:
        words[NEXT] = _neediest(words)
    if words[NEXT] < 0 and _one_is_left(words):
        words[NEXT], words[AGREED] = words[MESSAGES] - 1, words[AGREED] + 1
    if words[NEXT] < 0 and words[POSTED] > words[AGREED]:  # something new, and all ranks will come to this point
        _vote(words)
    return words[NEXT]


@inner
def _start_next(words):
    """Whether the message whose turn it is could be started: it is ready and its lane free."""
    message = _next_by_need(words) if words[BY_NEED] else words[STARTED] % words[MESSAGES]
    if message < 0 or words[ERROR]:
        return False
    place = _first_place(words) + message
    lane = place % words[LANES]
    if words[words[LANE] + 2 * lane] or not _may_go(words, place):
        return False
    moment = now()
    words[words[BEGAN] + place], words[words[READY] + place] = moment, IN_FLIGHT
    _note(words, place, flight.STARTED, moment)
    if words[ARRIVED] == words[STARTED]:
        words[BUSY_SINCE] = moment
    words[STARTED] += 1
    words[NEXT] = -1
    end = (words[STARTED] // words[MESSAGES] + 1) * words[MESSAGES]  # of the step; there is nothing to ask when all is
    if words[BY_NEED] and words[STARTED] < words[AGREED] < end:  # there. Ahead of the message, not behind its data
        _vote(words)
    return words[ERROR] == 0 and _begin(words, lane, place, 0)


@jit
def advance_all(words):
    """Move what can move; whether nobody else was at it."""
    if words[ERROR]:
        return True
    if swap(words[LOCK], 1):
        return False
    words[LOOKS] += words[STARTED] > words[ARRIVED]
    begin, more = now(), True
    while more and not words[ERROR]:
        more = False
        for lane in range(words[LANES]):
            if not words[ERROR]:
                more |= _test(words, lane)
        while not words[ERROR] and _start_next(words):
            more = True
    words[INSIDE_NS] += now() - begin
    swap(words[LOCK], 0)
    return True


@jit
def post(words, place):
    """A message may go when its turn comes: another thread that sees that sees its data."""
    _record(words, place)
    store(words.ctypes.data + 8 * (words[READY] + place), READY_TO_GO)
    words[POSTED] += 1
    wake(words)


@jit
def hold(words):
    """Wait until nobody is inside advance_all, and keep everybody out."""
    while swap(words[LOCK], 1):
        sleep(10)


@jit
def release(words):
    """Let them in again."""
    swap(words[LOCK], 0)


@jit
def wake(words):
    """There is something to do for who watches."""
    raise_semaphore(words.ctypes.data + 8 * WORK_TO_DO)
