"""What a device keeps from one connection to the next, and what it does with positions: WIRE.md, "Stored
pushes" and "History". Like everything here it is written from the page alone."""

import dataclasses
import os
import threading
import time

from . import frame, messages, page

wire = messages.wire
START = (0, 0)
ABILITIES = page.ABILITY["INBOX"] | page.ABILITY["HISTORY"]
ACK_ENTRIES = int(page.LIMIT["ack_entries"])
ACK_SECONDS = page.LIMIT["ack_delay"]
ASK_AGAIN_SECONDS = 5.0


@dataclasses.dataclass
class Taken:
    """What waits for the app: a push, or word of a loss, or both."""

    position: tuple
    push: object = None
    word: str | None = None
    """Moves the cursor: what was taken before the cursor was refused does not."""
    counts: bool = True


class Inbox:
    """One business."""

    def __init__(self, cursor: tuple):
        self.cursor = cursor
        self.received = cursor
        self.seen = START
        self.queue: list[Taken] = []
        self.resync_until = 0.0


class Cursors:
    """Where cursors are kept: outlives the program."""

    def __init__(self):
        self.saved: dict[str, tuple] = {}

    def save(self, business: str, cursor: tuple, replace: bool = False) -> None:
        self.saved[business] = cursor if replace else max(cursor, self.saved.get(business, START))


class Program:
    """An installation of an app, as far as it outlives a connection. Whatever the app was handed, in order,
    is in `handed`: (business, position, body) of stored pushes, (group, position, body) of histories;
    `words` is what it was told of losses. While `holding` is set the app handles nothing."""

    def __init__(self, app: str, device: str, cursors: Cursors | None = None):
        self.app = app
        self.device = device
        self.instance = os.urandom(16)
        self.attempt = 0
        self.cursors = cursors or Cursors()
        self.inboxes = {name: Inbox(cursor) for name, cursor in self.cursors.saved.items()}
        self.last: dict[str, tuple] = {}
        self.recover_until: dict[str, float] = {}
        self.handed: list[tuple] = []
        self.redelivered: set[tuple] = set()
        self.words: list[tuple] = []
        self.holding = False
        self.asked_again = 0
        self.news = threading.Condition(threading.RLock())
        self.current = None
        # The connection before, while it is still open after a move.
        self.left = None
        # A login of a move that has no answer yet, with the cursors that it named.
        self.coming = None
        self.due: set[str] = set()
        self.handled = 0
        self.due_at: float | None = None

    # Login.

    def login_fields(self) -> dict:
        """What LOGIN says of all this. To be asked for once, right before it is sent."""
        with self.news:
            self.attempt += 1
            named = [wire.Cursor(business=name, term=at[0], seq=at[1]) for name, at in self.cursors.saved.items()]
            return {"attempt": self.attempt, "abilities": ABILITIES, "cursors": named}

    def moving_in(self, device, cursors) -> None:
        """A LOGIN beside a connection that stays in use until it is answered."""
        self.coming = (device, cursors)

    def entering(self, device, cursors) -> None:
        """This connection is the newest, and its LOGIN names these cursors."""
        with self.news:
            self.current = device
            named = {it.business: (it.term, it.seq) for it in cursors}
            for name, inbox in self.inboxes.items():
                inbox.seen = named.get(name, START)
                inbox.resync_until = 0.0
            self.recover_until.clear()

    def logged_in(self, device) -> None:
        with self.news:
            if self.coming is not None and self.coming[0] is device:
                self.left = self.current
                self.entering(*self.coming)
                self.coming = None
            for it in device.login_ok.inboxes:
                name = self._name(device, it.business)
                if it.state == wire.INBOX_STATE_TERM_CHANGED:
                    self._tell(name, "term changed")
                elif it.state == wire.INBOX_STATE_CURSOR_REFUSED:
                    inbox, floor = self._inbox(name), (it.floor_term, it.floor_seq)
                    inbox.cursor = inbox.received = inbox.seen = floor
                    for taken in inbox.queue:
                        taken.counts = False
                    self.cursors.save(name, floor, replace=True)
                    self._tell(name, "cursor refused")

    @staticmethod
    def _name(device, number: int) -> str | None:
        for entry in device.login_ok.businesses:
            if entry.status == 0 and entry.number == number:
                return entry.name
        return None

    def _inbox(self, business: str) -> Inbox:
        return self.inboxes.setdefault(business, Inbox(START))

    def _tell(self, of: str, *word) -> None:
        self.words.append((of, *word))
        self.news.notify_all()

    # What comes.

    def takes(self, device, got) -> bool:
        """Whether this frame is one of ours; then it was done what the page says."""
        with self.news:
            params = got.params
            if got.name in ("MISSED", "GROUP_RESET"):
                if device is self.current:
                    self._missed(params) if got.name == "MISSED" else self._reset(params)
                return True
            if got.name == "JOINED":
                self._joined(device, params)
                return False
            if got.name == "LEFT":
                if params.request_id == 0 or params.status == 0:
                    self.last.pop(params.group, None)
                return False
            if got.name not in ("PUSH", "GROUP_PUSH", "GAP"):
                return False
            if got.name == "GAP":
                at, prev = (params.upto_term, params.upto_seq), (params.after_term, params.after_seq)
            else:
                at, prev = (params.term, params.seq), (params.prev_term, params.prev_seq)
                if at == START:
                    return False
            business = self._name(device, params.business)
            if device is self.left and got.name == "GROUP_PUSH" and prev == self.last.get(got.params.group):
                self.last[got.params.group] = at
                self.handed.append((got.params.group, at, got.body))
                self.news.notify_all()
            if device is not self.current or business is None:
                return True
            if got.name == "GROUP_PUSH":
                self._of_history(device, got, at, prev)
            else:
                self._of_inbox(device, business, got, at, prev)
            return True

    def _of_inbox(self, device, business: str, got, at: tuple, prev: tuple) -> None:
        inbox = self._inbox(business)
        inbox.seen = max(inbox.seen, at)
        if at <= inbox.received:
            self._due(business, 1)
        elif prev <= inbox.received:
            if got.name == "GAP":
                reason = wire.GapReason.Name(got.params.reason).removeprefix("GAP_REASON_").lower()
                word = (f"gap {reason}", got.params.count) if got.params.count else None
                taken = Taken(at, None, word)
            else:
                back = at[0] != inbox.received[0] and prev < inbox.received
                taken = Taken(at, got, ("term changed",) if back else None)
            inbox.received = at
            inbox.resync_until = 0.0
            inbox.queue.append(taken)
            self._hand_over(business)
        elif time.monotonic() >= inbox.resync_until:
            inbox.resync_until = time.monotonic() + ASK_AGAIN_SECONDS
            self.asked_again += 1
            after = wire.InboxPosition(business=got.params.business, term=inbox.received[0], seq=inbox.received[1])
            device.send("RESYNC", wire.Resync(after=after))

    def _hand_over(self, business: str) -> None:
        inbox = self._inbox(business)
        while inbox.queue and not self.holding:
            taken = inbox.queue.pop(0)
            if taken.word is not None:
                self._tell(business, *taken.word)
            if taken.push is not None:
                self.handed.append((business, taken.position, taken.push.body))
                if taken.push.params.redelivered:
                    self.redelivered.add(taken.position)
            if taken.counts:
                inbox.cursor = taken.position
                self._due(business, 1)
        self.news.notify_all()

    # Saved, then acknowledged.

    def _due(self, business: str, count: int) -> None:
        self.due.add(business)
        self.handled += count
        if self.due_at is None:
            self.due_at = time.monotonic() + ACK_SECONDS
        if self.handled >= ACK_ENTRIES:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Saves what was handled, and says so on the newest connection."""
        with self.news:
            due, self.due, self.handled, self.due_at = self.due, set(), 0, None
            for business in due:
                self.cursors.save(business, self._inbox(business).cursor)
            device = self.current
            if device is None or device.login_ok is None or not device.login_ok.abilities & page.ABILITY["INBOX"]:
                return
            at = {it.name: it.number for it in device.login_ok.businesses if it.status == 0}
            told = {name: min(self._inbox(name).cursor, self._inbox(name).seen) for name in due if name in at}
            inboxes = [wire.InboxPosition(business=at[name], term=it[0], seq=it[1]) for name, it in told.items()]
            if inboxes:
                try:
                    device.send("ACK", wire.Ack(inboxes=inboxes))
                except Exception:  # the link is gone: the next LOGIN says the same
                    pass

    def tick(self, device) -> None:
        with self.news:
            if device is self.current and self.due_at is not None and time.monotonic() >= self.due_at:
                self.acknowledge()

    def resume(self) -> None:
        """The app handles again."""
        with self.news:
            self.holding = False
            for business in list(self.inboxes):
                self._hand_over(business)

    # Histories.

    def join(self, group: str):
        """JOIN on the newest connection, with the place where this device is."""
        return self.current.join(group, self.last.get(group, START))

    def _joined(self, device, params) -> None:
        if params.status != 0 or device is not self.current:
            return
        group, tail = params.group, (params.tail_term, params.tail_seq)
        last = self.last.get(group, START)
        if not params.history:
            self.last.pop(group, None)
        elif last == START:
            self.last[group] = tail
        elif params.request_id == 0 and tail > last:
            self._recover(device, group)

    def _of_history(self, device, got, at: tuple, prev: tuple) -> None:
        group = got.params.group
        last = self.last.get(group, START)
        if last != START and at <= last:
            return
        if last != START and prev > last:
            if time.monotonic() >= self.recover_until.get(group, 0.0):
                self._recover(device, group)
            return
        self.last[group] = at
        self.recover_until.pop(group, None)
        self.handed.append((group, at, got.body))
        self.news.notify_all()

    def _recover(self, device, group: str) -> None:
        self.recover_until[group] = time.monotonic() + ASK_AGAIN_SECONDS
        self.asked_again += 1
        device.recover(group, self.last[group])

    def _reset(self, params) -> None:
        group, floor, tail = params.group, (params.floor_term, params.floor_seq), (params.tail_term, params.tail_seq)
        last = self.last.get(group, START)
        if floor > last or tail < last:
            self.last[group] = floor
            self._tell(group, "reset")

    def _missed(self, params) -> None:
        self._tell(params.group, "missed", params.count)

    # For tests.

    def bodies(self, of: str) -> list[bytes]:
        """What the app was handed of a business or group, in order."""
        with self.news:
            return [body for name, _, body in self.handed if name == of]

    def wait_for(self, of: str, count: int, seconds: float = 15.0) -> list[bytes]:
        """So many bodies of a business or group."""
        end = time.monotonic() + seconds
        with self.news:
            while len(self.bodies(of)) < count:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{len(self.bodies(of))} of {count} within {seconds} s; told: {self.words}")
                self.news.wait(left)
            return self.bodies(of)

    def wait_word(self, of: str, *word, seconds: float = 15.0) -> tuple:
        """Word of a loss that begins like this."""
        end = time.monotonic() + seconds
        with self.news:
            while True:
                for told in self.words:
                    if told[: 1 + len(word)] == (of, *word):
                        return told
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not told {word} of {of} within {seconds} s, but {self.words}")
                self.news.wait(left)
