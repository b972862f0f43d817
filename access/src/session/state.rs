//! The states of a session, and the answer to every input in every state.
//!
//! ```text
//!              LOGIN            bound            go away              drain
//! AwaitLogin ────────► Binding ────────► Active ─────────► Leaving ─────────► Draining
//!     │                   │                 │   drain         │                  ▲ │
//!     │                   │                 ├─────────────────┼──────────────────┘ │
//!     │                   │                 │                 │ superseded         │ superseded
//!     │                   │                 │                 └──────► Moved ◄─────┤
//!     └───────────────────┴─────────────────┴────────┬───────────────────┴─────────┘
//!                                                    ▼ bad bytes, wrong frame, deadline, order, BYE,
//!                                              Closed(cause)                       end of the link
//! ```
//! Leaving: GO_AWAY was said. The device logs in elsewhere and is served here as before until it has, or
//! until the deadline that it was told: that is the drain. Draining: requests in flight are answered, new
//! ones are not taken, then CLOSE. Moved: it was told, and has logged in elsewhere; there its session is now,
//! here are only the answers that it is owed, and then CLOSE.
//!
//! Source: WIRE.md, "States".

use hawser_proto::code::CloseCode;

/// Where a session stands. `Closed` remembers its cause; `None`: the link just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    AwaitLogin,
    Binding,
    Active,
    Leaving,
    Draining,
    Moved,
    Closed(Option<CloseCode>),
}

/// What happens, without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Login,
    Ping,
    Refresh,
    Bye,
    Request,
    Join,
    Leave,
    Ack,
    Resync,
    Recover,
    Ignorable,
    Malformed(CloseCode),
    Bound,
    Refused(CloseCode),
    Ordered(CloseCode),
    /// The node wants to go, and the device knows the word for it.
    GoAway,
    /// It does not, or its time is over.
    Drain,
    Ended,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Nothing,
    Authenticate,
    Admit,
    Pong,
    Refresh,
    Forward,
    RefuseRequest,
    Join,
    Leave,
    Ack,
    Resync,
    Recover,
    GoAway,
    Drain,
    /// End the session, and keep the link for the answers.
    Detach,
    Close(CloseCode),
    Vanish,
}

impl State {
    /// One step. Every pair is written out: a new state or input must be thought through.
    #[allow(clippy::match_same_arms, reason = "a row of the table stands with its state")]
    pub(super) fn on(&mut self, input: Input) -> Reaction {
        use CloseCode as Code;
        use Input as I;
        use Reaction as R;
        use State as S;
        let (next, reaction) = match (*self, input) {
            (S::AwaitLogin, I::Login) => (S::Binding, R::Authenticate),
            (
                S::AwaitLogin,
                I::Ping
                | I::Refresh
                | I::Bye
                | I::Request
                | I::Join
                | I::Leave
                | I::Ack
                | I::Resync
                | I::Recover
                | I::Ignorable,
            ) => close(Code::LoginRequired),
            (S::AwaitLogin, I::Malformed(code) | I::Ordered(code)) => close(code),
            // Nobody asked for a verdict.
            (S::AwaitLogin, I::Bound | I::Refused(_)) => close(Code::Internal),
            (S::AwaitLogin, I::GoAway | I::Drain) => close(Code::Draining),
            (S::AwaitLogin, I::Ended) => (S::Closed(None), R::Vanish),

            // Frames wait in the link while the login is checked, so these do not happen.
            (
                S::Binding,
                I::Login
                | I::Ping
                | I::Refresh
                | I::Request
                | I::Join
                | I::Leave
                | I::Ack
                | I::Resync
                | I::Recover
                | I::Ignorable,
            ) => close(Code::UnexpectedFrame),
            (S::Binding, I::Bye) => close(Code::Goodbye),
            (S::Binding, I::Malformed(code) | I::Refused(code) | I::Ordered(code)) => close(code),
            (S::Binding, I::Bound) => (S::Active, R::Admit),
            (S::Binding, I::GoAway | I::Drain) => close(Code::Draining),
            (S::Binding, I::Ended) => (S::Closed(None), R::Vanish),

            (S::Active | S::Leaving | S::Draining, I::Login) => close(Code::LoginTwice),
            (S::Active | S::Leaving | S::Draining, I::Ping) => (*self, R::Pong),
            (S::Active | S::Leaving | S::Draining, I::Refresh) => (*self, R::Refresh),
            (S::Active | S::Leaving | S::Draining, I::Bye) => close(Code::Goodbye),
            (S::Active | S::Leaving, I::Request) => (*self, R::Forward),
            (S::Draining, I::Request) => (S::Draining, R::RefuseRequest),
            (S::Active | S::Leaving | S::Draining, I::Join) => (*self, R::Join),
            (S::Active | S::Leaving | S::Draining, I::Leave) => (*self, R::Leave),
            (S::Active | S::Leaving | S::Draining, I::Ack) => (*self, R::Ack),
            (S::Active | S::Leaving | S::Draining, I::Resync) => (*self, R::Resync),
            (S::Active | S::Leaving | S::Draining, I::Recover) => (*self, R::Recover),
            (S::Active | S::Leaving | S::Draining, I::Ignorable) => (*self, R::Nothing),
            (S::Leaving | S::Draining, I::Ordered(Code::Superseded)) => (S::Moved, R::Detach),
            (S::Active | S::Leaving | S::Draining, I::Malformed(code) | I::Ordered(code)) => {
                close(code)
            }
            // A second verdict on a login that is done.
            (S::Active | S::Leaving | S::Draining, I::Bound | I::Refused(_)) => {
                close(Code::Internal)
            }
            (S::Active, I::GoAway) => (S::Leaving, R::GoAway),
            // Said once.
            (S::Leaving | S::Draining, I::GoAway) => (*self, R::Nothing),
            (S::Active | S::Leaving, I::Drain) => (S::Draining, R::Drain),
            (S::Draining, I::Drain) => (S::Draining, R::Nothing),
            (S::Active | S::Leaving | S::Draining, I::Ended) => (S::Closed(None), R::Vanish),

            (S::Moved, I::Login) => close(Code::LoginTwice),
            (S::Moved, I::Ping) => (S::Moved, R::Pong),
            (S::Moved, I::Request) => (S::Moved, R::RefuseRequest),
            // The new connection's affairs: what is asked of them here is lost, as with the link's end.
            (
                S::Moved,
                I::Refresh
                | I::Join
                | I::Leave
                | I::Ack
                | I::Resync
                | I::Recover
                | I::Ignorable
                | I::GoAway
                | I::Drain,
            ) => (S::Moved, R::Nothing),
            (S::Moved, I::Bye) => close(Code::Goodbye),
            // All is answered, or its time is over: why it ends has not changed.
            (S::Moved, I::Ordered(Code::Draining)) => close(Code::Superseded),
            (S::Moved, I::Malformed(code) | I::Ordered(code)) => close(code),
            (S::Moved, I::Bound | I::Refused(_)) => close(Code::Internal),
            (S::Moved, I::Ended) => (S::Closed(None), R::Vanish),

            (
                S::Closed(cause),
                I::Login
                | I::Ping
                | I::Refresh
                | I::Bye
                | I::Request
                | I::Join
                | I::Leave
                | I::Ack
                | I::Resync
                | I::Recover
                | I::Ignorable
                | I::Malformed(_)
                | I::Bound
                | I::Refused(_)
                | I::Ordered(_)
                | I::GoAway
                | I::Drain
                | I::Ended,
            ) => (S::Closed(cause), R::Nothing),
        };
        *self = next;
        reaction
    }
}

fn close(code: CloseCode) -> (State, Reaction) {
    (State::Closed(Some(code)), Reaction::Close(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const STATES: [State; 7] = [
        State::AwaitLogin,
        State::Binding,
        State::Active,
        State::Leaving,
        State::Draining,
        State::Moved,
        State::Closed(Some(CloseCode::Goodbye)),
    ];
    const INPUTS: [Input; 19] = [
        Input::Login,
        Input::Ping,
        Input::Refresh,
        Input::Bye,
        Input::Request,
        Input::Join,
        Input::Leave,
        Input::Ack,
        Input::Resync,
        Input::Recover,
        Input::Ignorable,
        Input::Malformed(CloseCode::BadFrame),
        Input::Bound,
        Input::Refused(CloseCode::TokenInvalid),
        Input::Ordered(CloseCode::Superseded),
        Input::Ordered(CloseCode::Draining),
        Input::GoAway,
        Input::Drain,
        Input::Ended,
    ];

    /// The whole table, as a page that is reviewed like code.
    #[test]
    fn the_table_is_as_printed() {
        let mut page = String::new();
        for state in STATES {
            for input in INPUTS {
                let mut next = state;
                let reaction = next.on(input);
                writeln!(page, "{state:?} + {input:?} => {reaction:?}, {next:?}").unwrap();
            }
            page.push('\n');
        }
        if std::env::var_os("UPDATE_TABLES").is_some() {
            std::fs::write("src/session/state.txt", &page).unwrap();
        }
        assert_eq!(page, include_str!("state.txt"), "UPDATE_TABLES=1 rewrites the page");
    }

    /// Whatever comes, whoever was told to go is served as before, until it has gone or its time is over.
    #[test]
    fn a_session_that_leaves_differs_from_an_active_one_in_the_word_and_the_end_alone() {
        for input in INPUTS {
            let (mut active, mut leaving) = (State::Active, State::Leaving);
            let (before, after) = (active.on(input), leaving.on(input));
            if input == Input::GoAway {
                assert_eq!((before, active), (Reaction::GoAway, State::Leaving));
                assert_eq!((after, leaving), (Reaction::Nothing, State::Leaving));
            } else if input == Input::Ordered(CloseCode::Superseded) {
                assert_eq!(before, Reaction::Close(CloseCode::Superseded));
                assert_eq!((after, leaving), (Reaction::Detach, State::Moved));
            } else {
                assert_eq!(before, after, "{input:?}");
                let stays = |state| matches!(state, State::Active | State::Leaving);
                assert!(active == leaving || (stays(active) && stays(leaving)), "{input:?}");
            }
        }
    }

    #[test]
    fn nothing_leaves_a_closed_session_and_every_close_says_so() {
        for state in STATES {
            for input in INPUTS {
                let mut next = state;
                let reaction = next.on(input);
                match reaction {
                    Reaction::Close(code) => assert_eq!(next, State::Closed(Some(code))),
                    Reaction::Vanish => assert_eq!(next, State::Closed(None)),
                    _ => assert_eq!(
                        matches!(next, State::Closed(_)),
                        matches!(state, State::Closed(_))
                    ),
                }
            }
        }
    }
}
