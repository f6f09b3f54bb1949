//! Whom an event of a thread's TCP sockets is about: a place among its connections or its listeners, in the
//! 64 bits that the kernel keeps for us. Tests: with `worker`.

use super::slots::Slot;
use super::sockets::Token;

/// Whose a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A connection's client.
    Client,
    /// Its endpoint.
    Server,
    /// Who waits to be accepted.
    Listener,
}

/// The token of a side.
pub(super) fn token(slot: Slot, side: Side) -> Token {
    let side = match side {
        Side::Client => 0,
        Side::Server => 1,
        Side::Listener => 2,
    };
    slot.number() << 2 | side
}

/// Whose it is.
pub(super) fn owner(token: Token) -> Option<(Slot, Side)> {
    let slot = Slot::from_number(token >> 2);
    match token & 3 {
        0 => Some((slot, Side::Client)),
        1 => Some((slot, Side::Server)),
        2 => Some((slot, Side::Listener)),
        _ => None,
    }
}
