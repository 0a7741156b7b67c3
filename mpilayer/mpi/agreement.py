"""Facts that must be the same on all ranks: one small reduction if they are, and an error that names who differs."""

import hashlib
import json
import socket

import numpy as np

from mpilayer.base.errors import AgreedError

MOST = 10  # ranks, and facts, that a message names
NOTHING = "nothing"  # the value of a fact that a rank does not know


def digest(text):
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def extremes(number):
    """(2,) uint64 whose minimum over the ranks is (least, complement of the largest) of their numbers of 64 bits."""
    return np.array([number, ~np.uint64(number)], np.uint64)


def are_equal(least):
    """Whether the minimum over the ranks of `extremes` says that all numbers are equal."""
    return bool(least[0] == ~least[1])


def named(ranks):
    """Ranks [(number, host)] in words; the first ten and a count."""
    told = ", ".join(f"{rank} ({host})" for rank, host in ranks[:MOST])
    more = f" and {len(ranks) - MOST} more" if len(ranks) > MOST else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {told}{more}"


def differences(first, everyone):
    """What differs, in words: a text for each fact, of {fact: value} of the first rank and [(host, {fact: value})] of
    all ranks, where only values that are not the first one's need be.
    """
    found = []
    for fact in dict.fromkeys(fact for _, facts in everyone for fact in facts):
        having = {}
        for rank, (host, facts) in enumerate(everyone):
            having.setdefault(facts.get(fact, first.get(fact, NOTHING)), []).append((rank, host))
        if len(having) > 1:
            values = "; ".join(f"{value} on {named(ranks)}" for value, ranks in list(having.items())[:MOST])
            found.append(f"{fact}: {values}")
    return found


def equal_on_all(ranks, *numbers):
    """For each of a few numbers of 64 bits, whether it is the same on all ranks; these call it together."""
    least = np.concatenate([extremes(number) for number in numbers])
    ranks.wait(ranks.comm.Iallreduce(ranks.MPI.IN_PLACE, least, op=ranks.MPI.MIN), "the facts of all ranks")
    return [are_equal(pair) for pair in least.reshape(-1, 2)]


def compare(ranks, facts, remedy):
    """Raise AgreedError on all ranks unless `facts` {name: value} are the same on all; all ranks call this together.

    remedy   what can be done about a difference
    """
    facts = {name: str(value) for name, value in facts.items()}
    if all(equal_on_all(ranks, digest(json.dumps(facts)))):
        return
    first = ranks.bcast(facts)
    others = {name: facts.get(name, NOTHING) for name in {**first, **facts} if facts.get(name) != first.get(name)}
    everyone = ranks.gather_to_first((socket.gethostname(), others))
    found = ranks.bcast(differences(first, everyone) if ranks.rank == 0 else None)
    more = f" | and {len(found) - MOST} more" if len(found) > MOST else ""
    raise AgreedError(f"{' | '.join(found[:MOST])}{more} | expected the same on all ranks | try: {remedy}")
