//! Pushes on their way to a link: wake-ups, and whatever the feeds want done.

use super::{Stage, Waits, entry};
use crate::net::{MS, Net, Part, Stream, StreamId};
use crate::ours::{Ask, Item, Message, Named, Ours, name_of};
use bytes::Bytes;
use hawser_access::cores::feed::Action;
use hawser_loadtest::judge::{Event, Kind};
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{BusinessNo, SlotRef};
use hawser_proto::limits::FRAME_BYTES_MAX_DEFAULT;

impl Ours {
    pub(crate) fn count_wake(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        stream: StreamId,
        wake: u64,
    ) {
        let last = self.nodes[node].wakes.insert(stream, wake).unwrap_or_default();
        if wake != last + 1 {
            self.want_sweep(net, node);
        }
    }

    pub(crate) fn delivered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        to: &Named,
        business: BusinessNo,
        item: Result<Item, (String, Bytes)>,
    ) {
        let boot = net.life(Part::Node(node));
        let (_, of) = crate::ours::node_of(&to.owner);
        let no_fence = self.switches.no_fence;
        let at = to.owner.at;
        let Some(conn) = self.nodes[node].conn(at).filter(|_| boot == Some(of)) else { return };
        if conn.stage == Stage::Binding
            && let Ok(item) = &item
        {
            // The claim is done, and its answer on its way: what came after it is not in that answer.
            conn.early.push((business, item.at, item.priority));
            return;
        }
        let is_it = conn.stage == Stage::Active
            && (conn.app.as_str(), conn.device.as_str()) == (&to.device.0, &to.device.1)
            && (conn.epoch == to.epoch || no_fence);
        if !is_it {
            return;
        }
        match item {
            Ok(item) => {
                conn.feeds.wake(business, entry(item));
                self.pump(net, node, at);
            }
            Err((push, frame)) => {
                let name = name_of(&conn.app, business.0);
                let mut event = Event::new(0, Kind::Send).of(&conn.app, &conn.device, name);
                (event.push, event.volatile, event.epoch) = (push, true, conn.epoch);
                let link = conn.link;
                if link.is_some_and(|link| net.has_room(link, frame.len())) {
                    net.record(event);
                    self.write(net, node, at, frame);
                }
            }
        }
    }

    pub(crate) fn write(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, bytes: Bytes) {
        if let Some(link) = self.nodes[node].conn(at).and_then(|conn| conn.link) {
            net.send(link, Part::Node(node), bytes);
        }
    }

    pub(crate) fn pump_all(&mut self, net: &mut Net<Message>, node: usize) {
        let all: Vec<SlotRef> = self.nodes[node].active().map(|conn| conn.at).collect();
        for at in all {
            self.pump(net, node, at);
        }
    }

    /// Does what the feed of this session wants done.
    pub(crate) fn pump(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef) {
        let now_ms = crate::ours::wall_ms(net.now, 0);
        loop {
            let way = self.way(net, node, Stream::Deliver);
            let Some(named) = self.named(net, node, at) else { return };
            let Some(conn) = self.nodes[node].conn(at) else { return };
            let Some(link) = conn.link.filter(|_| conn.stage == Stage::Active) else { return };
            let room = |bytes| net.has_room(link, bytes);
            let epoch = conn.epoch;
            let max = FRAME_BYTES_MAX_DEFAULT;
            let Some(action) = conn.feeds.poll(now_ms, max, way.is_some(), room) else { break };
            match action {
                Action::Write { frame, .. } => net.send(link, Part::Node(node), frame),
                Action::Gap(gap) => {
                    net.send(link, Part::Node(node), NodeFrame::Gap(gap).encode());
                }
                Action::Pull { business, serial, after, entries_max, bytes_max } => {
                    let ask = Ask::Pull { of: named, business, after, entries_max, bytes_max };
                    self.ask(net, node, way, ask, Waits::Pull { at, epoch, business, serial });
                }
                Action::Ack(upto) => {
                    let ask = Ask::Ack { of: named, upto };
                    self.ask(net, node, way, ask, Waits::Ack { at, epoch });
                }
                Action::Tell(..) => {}
            }
        }
        let Some(conn) = self.nodes[node].conn(at) else { return };
        if let Some(due) = conn.feeds.due_ms()
            && due != conn.due
        {
            conn.due = due;
            let pause = due.saturating_sub(now_ms) * MS + MS;
            net.after(pause, Part::Node(node), Message::Due(at));
        }
    }
}
