//! Waits until new links carry packets: Linux gives a link its queue some time after its other end came up, and drops
//! what is sent before. Knows no case. Tests: `netlab kernel`, each case of which with ground of its own needs it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sim::Packet;

use super::bell::Bell;
use super::ground::LINKS;
use super::sockets::{Ear, Mouth, listen};
use super::wire::{Numbers, build};

const LOST: Duration = Duration::from_secs(60);
/// Below the tags of cases.
const TAG: u32 = 7;

/// Sends packets both ways over each link until they arrive. `mouths` are the node's and each world's, `ears`
/// each world's and the node's.
pub(super) fn wait(mouths: &mut [Mouth], ears: &[Ear], bell: &mut Bell) -> Result<(), String> {
    let mut missing: BTreeSet<(usize, bool)> =
        (0..LINKS.len()).flat_map(|link| [(link, true), (link, false)]).collect();
    let last = Instant::now() + LOST;
    while Instant::now() < last {
        for (link, inward) in &missing {
            let (packet, mouth) = probe(*link, *inward);
            let numbers = Numbers { sequence: TAG, answer: 0 };
            mouths[mouth].send(packet.dst, &build(&packet, numbers), 0)?;
        }
        bell.wait()?;
        let heard = listen(ears);
        missing.retain(|(link, inward)| {
            let (packet, _) = probe(*link, *inward);
            !heard.iter().any(|(ear, heard)| {
                (*ear >= LINKS.len()) == *inward && heard.packet.dst == packet.dst
            })
        });
        if missing.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err("a new link carries no packets".to_owned())
}

/// A packet over a link and the number of its mouth.
fn probe(link: usize, inward: bool) -> (Packet, usize) {
    let end = |host: u8| format!("198.18.{link}.{host}:9").parse().expect("an address of a link");
    let mut packet = if inward { Packet::udp(end(2), end(1)) } else { Packet::udp(end(1), end(2)) };
    packet.payload = super::wire::payload(&packet);
    (packet, if inward { 1 + link } else { 0 })
}
