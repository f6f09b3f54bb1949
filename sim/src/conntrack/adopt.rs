//! Takes on a connection that another kernel had, as its listing told of it.
//! It must never know rules or routes. Tests: below.

use super::{Conn, Connection, History, State, Tracker, status};

impl Tracker {
    /// Puts a connection into the table as it is told. False: one of its tuples is in use.
    pub(crate) fn adopt(&mut self, told: &Connection, now: u64) -> bool {
        let timeout = u64::try_from(told.timeout.as_nanos()).unwrap_or(u64::MAX / 2);
        let conn = Conn {
            original: told.original,
            reply: told.reply,
            status: told.status | status::CONFIRMED | status::SRC_NAT_DONE | status::DST_NAT_DONE,
            mark: told.mark,
            state: told.state,
            expires: now.saturating_add(timeout),
            opened: now,
            masquerade_link: None,
            bound: self.last_bound,
            history: History::default(),
        };
        let nobody = u32::MAX;
        if self.taken(&told.original, nobody, now) || self.taken(&told.reply, nobody, now) {
            return false;
        }
        let id = self.free.pop().unwrap_or(self.slots.len() as u32);
        self.next_expiry = self.next_expiry.min(conn.expires);
        match self.slots.get_mut(id as usize) {
            Some(slot) => *slot = Some(conn),
            None => self.slots.push(Some(conn)),
        }
        self.enter(id);
        true
    }
}

impl State {
    /// TCP's state by its number in Linux (`enum tcp_conntrack`); none for a number it does not have.
    pub fn of_tcp(number: u8) -> Option<State> {
        const STATES: [State; 10] = [
            State::None,
            State::SynSent,
            State::SynRecv,
            State::Established,
            State::FinWait,
            State::CloseWait,
            State::LastAck,
            State::TimeWait,
            State::Close,
            State::SynSent2,
        ];
        STATES.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Tuple;
    use crate::{Host, Packet};
    use std::time::Duration;

    #[test]
    fn a_connection_that_was_taken_on_carries_its_packets() {
        let (client, service, pod) = ("10.0.0.9:5000", "10.96.0.1:53", "10.0.1.5:53");
        let socket = |text: &str| text.parse::<std::net::SocketAddr>().expect("literal");
        let (client, service, pod) = (socket(client), socket(service), socket(pod));
        let tuple = |from: std::net::SocketAddr, to: std::net::SocketAddr| Tuple {
            src: from.ip(),
            dst: to.ip(),
            sport: from.port(),
            dport: to.port(),
            protocol: 17,
        };
        let mut host = Host::new(1);
        let eth0 = host.add_link("eth0");
        host.add_address(eth0, "10.0.0.1".parse().expect("literal"), 8);
        let told = Connection {
            original: tuple(client, service),
            reply: tuple(pod, client),
            status: status::DST_NAT | status::SEEN_REPLY,
            mark: 0,
            state: State::Stateless,
            timeout: Duration::from_secs(30),
        };
        assert!(host.adopt_connection(&told));
        assert!(!host.adopt_connection(&told), "its tuples are in use");
        // Something has to want connections tracked.
        host.iptables_restore(
            crate::XtFamily::V4,
            "*nat\n-A PREROUTING -d 192.0.2.1/32 -j DNAT --to-destination 10.0.1.5\nCOMMIT\n",
            crate::XtRestore::default(),
        )
        .expect("a rule of the simulator's");
        let outcome = host.receive(&Packet::udp(client, service), eth0);
        assert_eq!(outcome.dnat, Some((pod.ip(), pod.port())));
    }
}
