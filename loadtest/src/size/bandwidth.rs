//! Bytes between devices and access nodes: the frames as the codec writes them, and what TCP adds.

use bytes::Bytes;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params::{GroupPush, Ping, Push, Request, Response};

/// Ethernet, IPv4, and TCP with time stamps.
const PACKET_BYTES: f64 = 14.0 + 20.0 + 32.0;
/// As long as ids of pushes that nobody named are.
const PUSH_ID_BYTES: usize = 16;

/// Bytes of one piece of work: to the device, and from it. A frame is a packet; what is not answered by a frame
/// is acknowledged by a packet without one.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// From the node to the device.
    pub out: f64,
    /// From the device to the node.
    pub into: f64,
}

impl Wire {
    /// A PING, its PONG, and the acknowledgement of that.
    pub fn heartbeat() -> Self {
        let asked = DeviceFrame::Ping(Ping { nonce: 1 }).encode().len();
        let answered = NodeFrame::Pong(Ping { nonce: 1 }).encode().len();
        Self { out: packet(answered), into: packet(asked) + PACKET_BYTES }
    }

    /// A request and its answer, each with so many bytes of body.
    pub fn request(payload: usize) -> Self {
        let (method, body) = ("method".to_owned(), Bytes::from(vec![0; payload]));
        let request = Request {
            request_id: 1,
            business: 1,
            method,
            deadline_ms: 10_000,
            ..Request::default()
        };
        let response = Response { request_id: 1, ..Response::default() };
        let asked = DeviceFrame::Request(request, body.clone()).encode().len();
        let answered = NodeFrame::Response(response, body).encode().len();
        Self { out: packet(answered), into: packet(asked) + PACKET_BYTES }
    }

    /// A push to a device.
    pub fn push(payload: usize) -> Self {
        let push = Push { business: 1, push_id: id(), ..Push::default() };
        Self::pushed(&NodeFrame::Push(push, Bytes::from(vec![0; payload])))
    }

    /// A push to a member of a group.
    pub fn group_push(payload: usize) -> Self {
        let group = "a-group-with-a-name".to_owned();
        let push = GroupPush { business: 1, group, push_id: id(), ..GroupPush::default() };
        Self::pushed(&NodeFrame::GroupPush(push, Bytes::from(vec![0; payload])))
    }

    fn pushed(frame: &NodeFrame) -> Self {
        Self { out: packet(frame.encode().len()), into: PACKET_BYTES }
    }
}

fn id() -> Bytes {
    Bytes::from(vec![7; PUSH_ID_BYTES])
}

fn packet(frame: usize) -> f64 {
    frame as f64 + PACKET_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_paid_for_once_and_a_push_is_acknowledged() {
        let (small, large) = (Wire::push(100), Wire::push(1_100));
        assert_eq!((large.out - small.out) as u64, 1_000);
        assert_eq!(large.into as u64, 66);
        assert_eq!((Wire::request(500).into - Wire::request(0).into) as u64, 500);
        assert!(Wire::heartbeat().out < 90.0);
    }
}
