"""What a mailbox refuses."""

import pytest

from mpilayer.base.errors import UserError
from mpilayer.exchange.mailbox import Mailbox
from tests.ranks import on_ranks


@on_ranks(2)
def test_more_tags_than_mpi_has_are_refused(ranks):
    most = ranks.comm.Get_attr(ranks.MPI.TAG_UB)
    with pytest.raises(UserError, match=r"kinds of messages, one for each layer \| this MPI has tags for"):
        Mailbox(ranks).open(most + 2)
    mail = Mailbox(ranks)
    mail.open(most + 1)
    mail.close()
