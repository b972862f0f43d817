"""What a device does with each frame that has a position, case by case as the tables of the page have it."""

import pytest

from hawser_wire import messages, page
from hawser_wire.frame import Frame
from hawser_wire.program import START, Cursors, Program

wire = messages.wire
BUSINESS, GROUP = "chat", "lobby"


class Link:
    """Stands in for a connection: keeps what was sent."""

    def __init__(self, abilities=sum(page.ABILITY.values()), **login_ok):
        served = [wire.BusinessNumber(name=BUSINESS, number=4)]
        self.login_ok = wire.LoginOk(abilities=abilities, businesses=served, **login_ok)
        self.sent = []

    def send(self, name, params):
        self.sent.append((name, params))

    def recover(self, group, last):
        self.sent.append(("RECOVER", (group, last)))

    def take(self, name):
        found = [params for kind, params in self.sent if kind == name]
        self.sent = [it for it in self.sent if it[0] != name]
        return found


def online(cursors=None, **login_ok):
    program, link = Program("app", "device", cursors), Link(**login_ok)
    program.entering(link, program.login_fields()["cursors"])
    program.logged_in(link)
    return program, link


def push(program, link, at, prev, body=b""):
    params = wire.Push(business=4, term=at[0], seq=at[1], prev_term=prev[0], prev_seq=prev[1])
    assert program.takes(link, Frame("PUSH", params, body))


def gap(program, link, after, upto, count=1):
    params = wire.Gap(business=4, after_term=after[0], after_seq=after[1], upto_term=upto[0], upto_seq=upto[1],
                      count=count, reason=wire.GAP_REASON_OVERFLOW)
    assert program.takes(link, Frame("GAP", params))


def acked(program, link):
    program.acknowledge()
    return [(it.term, it.seq) for ack in link.take("ACK") for it in ack.inboxes]


def test_taken_again_and_beyond():
    program, link = online()
    push(program, link, (1, 1), START)
    push(program, link, (1, 1), START)
    push(program, link, (1, 4), (1, 3))
    push(program, link, (1, 5), (1, 4))
    assert [at for _, at, _ in program.handed] == [(1, 1)]
    [resync] = link.take("RESYNC")
    assert (resync.after.business, resync.after.term, resync.after.seq) == (4, 1, 1)
    assert acked(program, link) == [(1, 1)]
    push(program, link, (1, 2), (1, 1))
    push(program, link, (1, 9), (1, 8))
    assert link.take("RESYNC"), "something was taken since"


def test_a_gap_is_passed_in_its_turn_and_never_jumped_over():
    program, link = online()
    gap(program, link, START, (1, 5), count=0)
    push(program, link, (1, 6), (1, 5))
    gap(program, link, (1, 8), (1, 9))
    assert program.words == [] and len(link.take("RESYNC")) == 1
    gap(program, link, (1, 6), (1, 9))
    assert program.words == [(BUSINESS, "gap overflow", 1)]
    assert acked(program, link) == [(1, 9)]


def test_a_term_that_goes_back_is_told_once():
    program, link = online()
    push(program, link, (1, 1), START)
    push(program, link, (1, 2), (1, 1))
    push(program, link, (9, 1), (1, 1))
    push(program, link, (9, 2), (9, 1))
    assert program.words == [(BUSINESS, "term changed")]
    assert len(program.handed) == 4


def test_an_acknowledgement_is_never_above_what_this_connection_brought():
    cursors = Cursors()
    cursors.saved = {BUSINESS: (1, 3)}
    program, first = online(cursors)
    program.holding = True
    push(program, first, (1, 4), (1, 3))
    second = Link()
    program.entering(second, program.login_fields()["cursors"])
    program.resume()
    assert acked(program, second) == [(1, 3)] and cursors.saved[BUSINESS] == (1, 4)
    push(program, second, (1, 4), (1, 3))
    assert acked(program, second) == [(1, 4)]
    assert len(program.handed) == 1
    push(program, first, (1, 5), (1, 4))
    assert len(program.handed) == 1, "an older connection has nothing to say"


@pytest.mark.parametrize("abilities", [0, page.ABILITY["HISTORY"]])
def test_without_the_ability_nothing_is_acknowledged(abilities):
    program, link = online(abilities=abilities)
    program._due(BUSINESS, 1)
    assert acked(program, link) == []


def test_a_refused_cursor_is_replaced_and_old_work_does_not_count():
    cursors = Cursors()
    cursors.saved = {BUSINESS: (99, 3)}
    program = Program("app", "device", cursors)
    first = Link()
    program.entering(first, program.login_fields()["cursors"])
    program.holding = True
    push(program, first, (99, 4), (99, 3))
    refused = wire.Inbox(business=4, tail_term=1, tail_seq=9, floor_term=1, floor_seq=2, state=wire.INBOX_STATE_CURSOR_REFUSED)
    second = Link(inboxes=[refused])
    program.entering(second, program.login_fields()["cursors"])
    program.logged_in(second)
    assert cursors.saved[BUSINESS] == (1, 2)
    program.resume()
    assert len(program.handed) == 1 and program.inboxes[BUSINESS].cursor == (1, 2)
    push(program, second, (1, 3), (1, 2))
    assert acked(program, second) == [(1, 3)]


def group_push(program, link, at, prev):
    params = wire.GroupPush(business=4, group=GROUP, term=at[0], seq=at[1], prev_term=prev[0], prev_seq=prev[1])
    assert program.takes(link, Frame("GROUP_PUSH", params))


def joined(program, link, tail, request_id=1, history=True):
    params = wire.Joined(request_id=request_id, group=GROUP, business=4, history=history, tail_term=tail[0], tail_seq=tail[1])
    program.takes(link, Frame("JOINED", params))


def reset(program, link, floor, tail):
    params = wire.GroupReset(group=GROUP, business=4, floor_term=floor[0], floor_seq=floor[1], tail_term=tail[0], tail_seq=tail[1])
    program.takes(link, Frame("GROUP_RESET", params))


def test_a_history_case_by_case():
    program, link = online()
    joined(program, link, (1, 5))
    for seq in (5, 6, 6, 8, 9):
        group_push(program, link, (1, seq), (1, seq - 1))
    assert [at for _, at, _ in program.handed] == [(1, 6)]
    assert link.take("RECOVER") == [(GROUP, (1, 6))]
    joined(program, link, (1, 9), request_id=0)
    assert link.take("RECOVER") == [(GROUP, (1, 6))]
    reset(program, link, (1, 20), (1, 30))
    reset(program, link, (1, 10), (1, 30))
    assert program.last[GROUP] == (1, 20) and program.words == [(GROUP, "reset")]
    reset(program, link, (1, 7), (1, 7))
    assert program.last[GROUP] == (1, 7) and len(program.words) == 2
    joined(program, link, START, history=False)
    assert GROUP not in program.last


def test_a_push_may_come_before_joined():
    program, link = online()
    group_push(program, link, (1, 8), (1, 7))
    joined(program, link, (1, 7))
    group_push(program, link, (1, 9), (1, 8))
    assert [at for _, at, _ in program.handed] == [(1, 8), (1, 9)]
