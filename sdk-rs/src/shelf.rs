//! What was stored for the app and it has not handled yet: one shelf per business, read by all its
//! listeners, each at its own pace. It outlives connections, and starts of the client.
//!
//! Its bound is kept by the session, which puts nothing more on it than a node may have
//! unacknowledged. With nobody reading, everything waits.

use crate::incoming::Incoming;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// One listener, on one shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReaderId(u64);

/// The stored pushes of one business, and word of its inbox, in order.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    items: Mutex<Items>,
    /// Tells the client's task that more was handled.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Items {
    waiting: VecDeque<(u64, Incoming)>,
    readers: Vec<Reader>,
    last_reader: u64,
    /// The newest number there was; the newest that a reader was given which is gone without having
    /// handled it; the newest that all have handled; and what was said of that.
    last: u64,
    abandoned: u64,
    handled: u64,
    reported: u64,
}

#[derive(Debug)]
struct Reader {
    id: ReaderId,
    /// Everything up to here was given to it.
    upto: u64,
    /// It was given this, and has not asked for more.
    open: Option<u64>,
    /// The client has closed under it: it is given nothing more, and nobody waits for it.
    is_ended: bool,
}

impl Reader {
    fn handled(&self) -> u64 {
        self.open.map_or(self.upto, |number| number - 1)
    }
}

impl Shelf {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self { items: Mutex::default(), wake }
    }

    /// Puts the next item on it.
    pub(crate) fn put(&self, number: u64, item: Incoming) {
        let mut items = self.items.lock();
        items.last = number;
        items.waiting.push_back((number, item));
    }

    /// A new reader begins with the oldest item there is.
    pub(crate) fn enter(&self) -> ReaderId {
        let mut items = self.items.lock();
        items.last_reader += 1;
        let id = ReaderId(items.last_reader);
        let upto = items.waiting.front().map_or(items.last, |(first, _)| first - 1);
        items.readers.push(Reader { id, upto, open: None, is_ended: false });
        id
    }

    /// The next item for this reader; what it was given before must be settled.
    pub(crate) fn take(&self, id: ReaderId) -> Option<Incoming> {
        let mut items = self.items.lock();
        let Items { waiting, readers, abandoned, .. } = &mut *items;
        let reader = readers.iter_mut().find(|reader| reader.id == id && !reader.is_ended)?;
        let next = waiting.partition_point(|(number, _)| *number <= reader.upto);
        let (number, item) = waiting.get(next)?;
        let mut item = item.clone();
        if let Incoming::Push(push) = &mut item {
            push.redelivered |= *number <= *abandoned;
        }
        reader.upto = *number;
        reader.open = Some(*number);
        Some(item)
    }

    /// This reader has handled what it was given last.
    pub(crate) fn settle(&self, id: ReaderId) {
        self.change(|items| {
            if let Some(reader) = items.readers.iter_mut().find(|reader| reader.id == id) {
                reader.open = None;
            }
        });
    }

    /// This reader is no more. What it was given and has not handled counts for nothing.
    pub(crate) fn leave(&self, id: ReaderId) {
        self.change(|items| {
            items.abandon(id);
            items.readers.retain(|reader| reader.id != id);
        });
    }

    /// The client has closed: this reader is given nothing more. It may still settle what it has, as
    /// long as no other was given that.
    pub(crate) fn end(&self, id: ReaderId) {
        self.change(|items| {
            items.abandon(id);
            if let Some(reader) = items.readers.iter_mut().find(|reader| reader.id == id) {
                reader.is_ended = true;
            }
        });
    }

    /// How far all readers have handled, if that is news.
    pub(crate) fn handled(&self) -> Option<u64> {
        let mut items = self.items.lock();
        let is_news = items.handled > items.reported;
        items.reported = items.handled;
        is_news.then_some(items.handled)
    }

    /// Empties it, and begins to number anew.
    pub(crate) fn clear(&self) {
        let mut items = self.items.lock();
        let Items { readers, last_reader, .. } = std::mem::take(&mut *items);
        let readers = readers.into_iter().map(|it| Reader { upto: 0, open: None, ..it });
        *items = Items { readers: readers.collect(), last_reader, ..Items::default() };
    }

    fn change(&self, change: impl FnOnce(&mut Items)) {
        let mut items = self.items.lock();
        change(&mut items);
        let handled = |is_ended: bool| {
            let readers = items.readers.iter().filter(|reader| reader.is_ended == is_ended);
            readers.map(Reader::handled).min()
        };
        let Some(upto) = handled(false).or_else(|| handled(true)) else { return };
        while items.waiting.pop_front_if(|(number, _)| *number <= upto).is_some() {}
        if upto > items.handled {
            items.handled = upto;
            drop(items);
            self.wake.notify_one();
        }
    }
}

impl Items {
    /// What this reader has and did not handle was given in vain.
    fn abandon(&mut self, id: ReaderId) {
        let reader = self.readers.iter().find(|reader| reader.id == id);
        if let Some(number) = reader.and_then(|reader| reader.open) {
            self.abandoned = self.abandoned.max(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::Push;

    fn shelf(upto: u64) -> Shelf {
        let shelf = Shelf::default();
        for number in 1..=upto {
            let id = number.to_string().into();
            shelf.put(number, Incoming::Push(Push { id, ..Push::default() }));
        }
        shelf
    }

    /// Settles, and what comes next: its number, and `r` where it is flagged.
    fn next(shelf: &Shelf, reader: ReaderId) -> String {
        shelf.settle(reader);
        match shelf.take(reader) {
            Some(Incoming::Push(push)) => {
                let flag = if push.redelivered { "r" } else { "" };
                format!("{}{flag}", String::from_utf8_lossy(&push.id))
            }
            Some(other) => panic!("{other:?}"),
            None => "-".to_owned(),
        }
    }

    #[test]
    fn an_item_is_handled_when_the_next_one_is_asked_for() {
        let shelf = shelf(2);
        let reader = shelf.enter();
        assert_eq!((&*next(&shelf, reader), shelf.handled()), ("1", None));
        assert_eq!((&*next(&shelf, reader), shelf.handled()), ("2", Some(1)));
        assert_eq!((&*next(&shelf, reader), shelf.handled()), ("-", Some(2)));
        assert_eq!(shelf.handled(), None, "told once");
        shelf.put(3, Incoming::Push(Push { id: "3".into(), ..Push::default() }));
        assert_eq!((&*next(&shelf, reader), shelf.handled()), ("3", None));
        shelf.settle(reader);
        assert_eq!(shelf.handled(), Some(3), "explicitly");
    }

    #[test]
    fn what_a_dropped_reader_had_goes_to_the_next_one_flagged() {
        let shelf = shelf(3);
        let first = shelf.enter();
        next(&shelf, first);
        assert_eq!(next(&shelf, first), "2");
        shelf.leave(first);
        assert_eq!(shelf.handled(), Some(1));
        let second = shelf.enter();
        assert_eq!((&*next(&shelf, second), &*next(&shelf, second)), ("2r", "3"));
        assert_eq!(shelf.handled(), Some(2));
    }

    #[test]
    fn all_readers_get_all_and_the_slowest_counts() {
        let shelf = shelf(2);
        let (quick, slow) = (shelf.enter(), shelf.enter());
        for expected in ["1", "2", "-"] {
            assert_eq!(next(&shelf, quick), expected);
        }
        assert_eq!((shelf.handled(), &*next(&shelf, slow)), (None, "1"));
        assert_eq!((&*next(&shelf, slow), shelf.handled()), ("2", Some(1)));
        shelf.leave(slow);
        assert_eq!(shelf.handled(), Some(2), "the others have");
    }

    #[test]
    fn a_reader_of_a_closed_client_may_settle_what_it_has_and_holds_nobody_up() {
        let shelf = shelf(2);
        let old = shelf.enter();
        assert_eq!(next(&shelf, old), "1");
        shelf.end(old);
        assert_eq!((&*next(&shelf, old), shelf.handled()), ("-", Some(1)));
        let new = shelf.enter();
        assert_eq!((&*next(&shelf, new), &*next(&shelf, new)), ("2", "-"));
        assert_eq!(shelf.handled(), Some(2));
    }

    #[test]
    fn a_cleared_shelf_begins_anew() {
        let shelf = shelf(5);
        let reader = shelf.enter();
        next(&shelf, reader);
        shelf.clear();
        shelf.settle(reader);
        assert_eq!((shelf.handled(), &*next(&shelf, reader)), (None, "-"));
        shelf.put(1, Incoming::Push(Push { id: "new".into(), ..Push::default() }));
        assert_eq!((&*next(&shelf, reader), &*next(&shelf, reader)), ("new", "-"));
        assert_eq!(shelf.handled(), Some(1));
    }
}
