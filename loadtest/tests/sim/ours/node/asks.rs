//! What is asked of the store over the deliver streams, and what comes of the answers.

use super::{CALL, SWEEP_WITHIN, Waits, entry};
use crate::net::{MS, Net, Part, Stream, StreamId};
use crate::ours::lane::Whom;
use crate::ours::{Answer, Ask, Message, No, Ours, number_of};
use hawser_access::cores::feed::Pulled;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{Position, SlotRef};

impl Ours {
    pub(crate) fn from_router(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        stream: StreamId,
        message: Message,
    ) {
        match message {
            Message::BindResult { call, outcome } => self.bound(net, node, call, outcome),
            Message::Kick { owner, epoch, .. } => {
                let (_, boot) = crate::ours::node_of(&owner);
                let matches = net.life(Part::Node(node)) == Some(boot)
                    && self.nodes[node].conn(owner.at).is_some_and(|conn| conn.epoch == epoch);
                if matches {
                    self.order(net, node, owner.at, CloseCode::Superseded);
                }
            }
            Message::SweepNow => self.want_sweep(net, node),
            Message::Group { app, item, wake } => {
                self.count_wake(net, node, stream, wake);
                self.group_push(net, node, &app, &item);
            }
            Message::Delivery { to, business, item, wake } => {
                if wake > 0 {
                    self.count_wake(net, node, stream, wake);
                }
                self.delivered(net, node, &to, business, item);
            }
            Message::Answer { call, answer } => {
                if let Some((_, waits)) = self.nodes[node].asks.remove(&call) {
                    self.settle(net, node, waits, answer);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn ask(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        way: Option<StreamId>,
        ask: Ask,
        waits: Waits,
    ) {
        let Some(stream) = way else { return };
        let call = self.next_call(node);
        self.nodes[node].asks.insert(call, (stream, waits));
        net.say(stream, Part::Node(node), Message::Ask { call, ask });
        net.after(CALL, Part::Node(node), Message::Overdone(call));
    }

    /// False: there is no way to a router just now.
    pub(crate) fn ask_for_lane(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        ask: Ask,
        whom: Whom,
    ) -> bool {
        let way = self.way(net, node, Stream::Deliver);
        self.ask(net, node, way, ask, Waits::History { app: app.to_owned(), whom });
        way.is_some()
    }

    pub(crate) fn settle(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        waits: Waits,
        answer: Result<Answer, No>,
    ) {
        let now_ms = crate::ours::wall_ms(net.now, 0);
        match waits {
            Waits::Pull { at, epoch, business, serial } => {
                let pulled = match answer {
                    Ok(Answer::Pulled { entries, tail }) => {
                        Some(Pulled { entries: entries.into_iter().map(entry).collect(), tail })
                    }
                    Ok(_) => None,
                    Err(no) => {
                        self.judge(net, node, at, epoch, no);
                        None
                    }
                };
                if let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) {
                    conn.feeds.pulled(business, serial, pulled, now_ms);
                }
                self.pump(net, node, at);
            }
            Waits::Ack { at, epoch } => {
                let is_taken = answer.is_ok();
                if let Err(no) = answer {
                    self.judge(net, node, at, epoch, no);
                }
                if let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) {
                    conn.feeds.ack_told(is_taken, now_ms);
                }
                self.pump(net, node, at);
            }
            Waits::History { app, whom } => {
                let answer = match answer {
                    Ok(Answer::History { entries, tail, floor }) => Some((entries, tail, floor)),
                    _ => None,
                };
                self.history_answered(net, node, &app, whom, answer);
            }
            Waits::Sweep { all } => {
                let Ok(Answer::Swept(found)) = answer else {
                    return self.want_sweep(net, node);
                };
                for ((at, epoch), one) in all.into_iter().zip(found) {
                    match one {
                        Ok(inboxes) => {
                            if self.nodes[node].conn(at).is_some_and(|it| it.epoch == epoch)
                                && !inboxes.is_empty()
                            {
                                self.stand(net, node, at, &inboxes);
                            }
                        }
                        Err(No::Unavailable) => self.want_sweep(net, node),
                        Err(no) => self.judge(net, node, at, epoch, no),
                    }
                }
            }
        }
    }

    /// What the store thinks of the session that asked.
    pub(crate) fn judge(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        epoch: u64,
        no: No,
    ) {
        let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) else { return };
        match no {
            No::Superseded => self.order(net, node, at, CloseCode::Superseded),
            No::Forgotten => {
                if !std::mem::replace(&mut conn.is_forgotten, true) {
                    let pause = net.rng.between(MS, 200 * MS);
                    net.after(pause, Part::Node(node), Message::Announce(at));
                }
            }
            No::Unavailable => {}
        }
    }

    pub(crate) fn want_sweep(&mut self, net: &mut Net<Message>, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].sweep_is_due, true) {
            let pause = net.rng.between(200 * MS, SWEEP_WITHIN);
            net.after(pause, Part::Node(node), Message::SweepAll);
        }
    }

    pub(crate) fn sweep(&mut self, net: &mut Net<Message>, node: usize) {
        self.nodes[node].sweep_is_due = false;
        self.sweep_lanes(net, node);
        let way = self.way(net, node, Stream::Deliver);
        let mut all = Vec::new();
        let mut sessions = Vec::new();
        let active: Vec<SlotRef> = self.nodes[node].active().map(|conn| conn.at).collect();
        for at in active {
            let Some(named) = self.named(net, node, at) else { continue };
            let Some(conn) = self.nodes[node].conn(at) else { continue };
            all.push((at, conn.epoch));
            let of_all = ["chat", "mail"].map(|name| number_of(&conn.app, name));
            let mut acked: Vec<_> = conn.feeds.acked().collect();
            for business in of_all {
                if !acked.iter().any(|(it, _)| *it == business) {
                    acked.push((business, Position::START));
                }
            }
            sessions.push((named, acked));
        }
        if sessions.is_empty() {
            return;
        }
        if way.is_none() {
            return self.want_sweep(net, node);
        }
        self.ask(net, node, way, Ask::Sweep { sessions }, Waits::Sweep { all });
    }
}
