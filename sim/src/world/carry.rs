//! Takes packets from host to host until each is delivered or gone. What hosts answer by themselves travels too.
//! The next hop is found as ARP and neighbour discovery find it: whoever on the segment has the address.
//! It must never know conversations. Tests: tests/world.rs.

use super::{HostId, Leg, Next, Port, Stranger, World};
use crate::answer::{self, Unreachable};
use crate::journey::{Fate, Journey};
use crate::net::{Hop, LOOPBACK};
use crate::packet::{Packet, flags};
use std::collections::VecDeque;
use std::sync::Arc;

/// The most legs one packet and its answers may have: a routing loop ends by its time to live long before.
const MOST_LEGS: usize = 1024;

/// A packet that was delivered.
pub(super) struct Arrival {
    pub(super) at: HostId,
    pub(super) packet: Packet,
    /// The leg that brought it.
    pub(super) leg: usize,
}

impl World {
    /// Sends a packet from a process of a host, and says every leg of its way, answers included.
    pub fn send(&mut self, from: HostId, packet: &Packet) -> Result<Vec<Leg>, Stranger> {
        self.member(from)?;
        let mut legs = Vec::new();
        let arrivals = self.carry(from, packet, &mut legs);
        arrivals.iter().for_each(|arrival| self.name_socket(arrival, &mut legs));
        Ok(legs)
    }

    /// Carries a packet and what hosts answer to it; returns what was delivered. A stranger sends nothing.
    pub(super) fn carry(
        &mut self,
        from: HostId,
        packet: &Packet,
        legs: &mut Vec<Leg>,
    ) -> Vec<Arrival> {
        let first = legs.len();
        let most = first + MOST_LEGS;
        let mut arrivals = Vec::new();
        let mut queue = VecDeque::from([(from, packet.clone().sent_here())]);
        while let Some((at, packet)) = queue.pop_front() {
            if legs.len() >= most {
                break;
            }
            let Ok(member) = self.member_mut(at) else { break };
            let name = member.name.clone();
            let (journey, answer) = member.host.send_and_answer(&packet);
            for journey in [Some(journey), answer].into_iter().flatten() {
                let (next, follow) = self.after(&legs[first..], (at, &name), &journey);
                if journey.outcome.fate == Fate::Delivered {
                    let packet = journey.outcome.packet.clone();
                    arrivals.push(Arrival { at, packet, leg: legs.len() });
                }
                legs.push(Leg { host: name.clone(), journey, next });
                queue.extend(follow);
            }
        }
        arrivals
    }

    /// Whether a packet had come through this host before.
    fn came_through(legs: &[Leg], host: &Arc<str>, packet: &Packet) -> bool {
        let is_the_same = |other: &Packet| {
            (other.src, other.dst, &other.transport) == (packet.src, packet.dst, &packet.transport)
        };
        legs.iter().any(|leg| leg.host == *host && is_the_same(&leg.journey.packet))
    }

    /// Where a packet goes that a host is done with after these legs, and what is to be sent on.
    fn after(
        &self,
        legs: &[Leg],
        (at, name): (HostId, &Arc<str>),
        journey: &Journey,
    ) -> (Next, Option<(HostId, Packet)>) {
        let hop = match journey.outcome.fate {
            Fate::Forwarded(hop) | Fate::Sent(hop) => hop,
            Fate::Expired if Self::came_through(legs, name, &journey.packet) => {
                return (Next::Looped, None);
            }
            _ => return (Next::Ended, None),
        };
        let packet = &journey.outcome.packet;
        let Some(segment) = self.segments.iter().find(|ports| ports.contains(&(at, hop.link)))
        else {
            return (Next::Away, None);
        };
        let neighbour = self.neighbour(segment, at, hop);
        match neighbour.and_then(|(id, link)| Some((id, link, self.name(id).ok()?))) {
            Some((peer, link, name)) => {
                let mut packet = packet.clone().arriving(link);
                (packet.mark, packet.priority) = (0, 0);
                (Next::Host(name.clone()), Some((peer, packet)))
            }
            None => {
                let answer = answer::unreachable(packet, Unreachable::Host, false);
                (Next::NoNeighbour, answer.map(|answer| (at, answer.sent_here())))
            }
        }
    }

    /// Who on the segment has the address: first the one that has it on the link itself.
    fn neighbour(&self, segment: &[Port], at: HostId, hop: Hop) -> Option<Port> {
        let others = || segment.iter().copied().filter(|port| *port != (at, hop.link));
        let on_link = |port: &Port| {
            let host = self.host(port.0).ok();
            let link = host.and_then(|host| host.links().iter().find(|link| link.index == port.1));
            link.is_some_and(|link| link.addresses.iter().any(|(known, _)| *known == hop.next))
        };
        let anywhere = |port: &Port| {
            let host = self.host(port.0).ok();
            let has = host.is_some_and(|host| host.is_local(hop.next));
            port.1 != LOOPBACK && !hop.next.is_loopback() && has
        };
        others().find(on_link).or_else(|| others().find(anywhere))
    }

    /// Writes down which socket a packet reached.
    pub(super) fn name_socket(&self, arrival: &Arrival, legs: &mut [Leg]) {
        let packet = &arrival.packet;
        let opens = !matches!(packet.transport, crate::Transport::Tcp { flags: bits, .. } if bits != flags::SYN);
        let next = match self.listener(arrival.at, packet).filter(|_| opens) {
            Some(name) => Next::Socket(name.clone()),
            None if super::has_sockets(packet.protocol()) => Next::NoSocket,
            None => Next::Known,
        };
        if let Some(leg) = legs.get_mut(arrival.leg) {
            leg.next = next;
        }
    }
}
