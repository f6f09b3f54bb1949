//! The facilities beside nf_tables that stand at hooks. To plug one in: a field and its name here, an arm in each `match`,
//! `Hooks::register` for its functions; then `path` runs them in the kernel's order.
//! It must never know the order of hooks (that is `hooks`). Tests: below and tests/hooks.rs.

use crate::ipset::Ipsets;
use crate::ipvs::Ipvs;
use crate::journey::Sink;
use crate::skb::{End, Env, Skb};
use crate::xtables::Xtables;

/// Names a facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Facility {
    Ipvs,
    /// The tables of iptables.
    Xtables,
    #[cfg(test)]
    Probe,
}

/// What a facility does. Its functions are numbered by itself; the number comes back as it was registered.
#[allow(dead_code, reason = "facilities beside nf_tables are it")]
pub(crate) trait Function {
    /// Takes a packet at `env.hook`. After a change of `skb.packet`, `skb.rewrite()`. NAT lookups call `env.tracker.bind`.
    fn run<S: Sink>(&mut self, function: u16, env: &mut Env<'_, S>, skb: &mut Skb) -> End;
    /// From now on changes are noted, to be taken back (exhaustive mode).
    fn begin_dry(&mut self);
    /// Takes back everything since `begin_dry`.
    fn end_dry(&mut self);
}

/// The facilities of one host.
#[derive(Default)]
pub(crate) struct Facilities {
    pub(crate) ipsets: Ipsets,
    pub(crate) ipvs: Ipvs,
    pub(crate) xtables: Xtables,
    #[cfg(test)]
    pub(crate) probe: tests::Probe,
}

impl Facilities {
    pub(crate) fn run<S: Sink>(
        &mut self,
        which: (Facility, u16),
        env: &mut Env<'_, S>,
        skb: &mut Skb,
    ) -> End {
        match which.0 {
            Facility::Ipvs => self.ipvs.run(which.1, env, skb),
            Facility::Xtables => self.xtables.run(which.1, &self.ipsets, (env, skb)),
            #[cfg(test)]
            Facility::Probe => self.probe.run(which.1, env, skb),
        }
    }

    pub(crate) fn begin_dry(&mut self) {
        self.ipvs.begin_dry();
        #[cfg(test)]
        self.probe.begin_dry();
    }

    pub(crate) fn end_dry(&mut self) {
        self.ipvs.end_dry();
        self.xtables.end_dry();
        #[cfg(test)]
        self.probe.end_dry();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conntrack::nat::{Manip, Range, range_flags};
    use crate::hooks::{At, Hooks, List};
    use crate::nft::Hook;
    use crate::{Fate, Host, Packet};

    /// Writes down what it sees; function 9 translates, function 8 sends anew.
    #[derive(Default)]
    pub(crate) struct Probe {
        pub(crate) seen: Vec<(Hook, u16)>,
        before: Option<usize>,
    }

    impl Function for Probe {
        fn run<S: Sink>(&mut self, function: u16, env: &mut Env<'_, S>, skb: &mut Skb) -> End {
            self.seen.push((env.hook, function));
            let Some(ct) = skb.ct else { return End::Accept };
            if function == 9 {
                let address = "10.1.0.2".parse().expect("a literal");
                let range = Range {
                    flags: range_flags::MAP_IPS,
                    addresses: Some((address, address)),
                    ports: (0, 0),
                };
                env.tracker.bind(ct.id, &range, Manip::Destination, (env.chance, env.now));
            }
            if function == 8 && !skb.ipvs {
                (skb.ipvs, skb.packet.dst) = (true, "10.1.0.3".parse().expect("a literal"));
                skb.rewrite();
                return End::Resend;
            }
            End::Accept
        }

        fn begin_dry(&mut self) {
            self.before = Some(self.seen.len());
        }

        fn end_dry(&mut self) {
            self.seen.truncate(self.before.take().unwrap_or(usize::MAX));
        }
    }

    fn host() -> (Host, u32) {
        let mut host = Host::new(1);
        let eth0 = host.add_link("eth0");
        host.add_address(eth0, "10.1.0.1".parse().expect("a literal"), 24);
        (host, eth0)
    }

    fn put(hooks: &mut Hooks, hook: Hook, list: List, priority: i32, number: u16) {
        hooks.register(At { ipv6: false, hook }, list, priority, (Facility::Probe, number));
    }

    fn packet(dst: &str) -> Packet {
        Packet::udp("10.1.0.9:5".parse().expect("a literal"), dst.parse().expect("a literal"))
    }

    #[test]
    fn functions_run_by_priority_and_translate_in_the_nat_core() {
        let (mut host, eth0) = host();
        for (priority, number) in [(0, 2), (-150, 1), (0, 3)] {
            host.with_hooks(|hooks| put(hooks, Hook::Prerouting, List::Hook, priority, number));
        }
        host.with_hooks(|hooks| {
            hooks.need_tracking(false);
            put(hooks, Hook::Prerouting, List::Nat, -100, 9);
        });
        let outcome = host.receive(&packet("10.96.0.1:53"), eth0);
        assert_eq!(
            outcome.dnat.map(|(address, _)| address.to_string()).as_deref(),
            Some("10.1.0.2"),
            "{outcome}"
        );
        let seen: Vec<u16> = host.probe().seen.iter().map(|(_, number)| *number).collect();
        assert_eq!(seen, [1, 9, 3, 2]);
        host.outcomes(&packet("10.96.0.2:53").arriving(eth0));
        assert_eq!(host.probe().seen.len(), 4, "a dry run leaves no trace");
        host.with_hooks(|hooks| hooks.unregister(false, Facility::Probe, |number| number != 1));
        host.receive(&packet("10.96.0.3:53"), eth0);
        assert_eq!(host.probe().seen.len(), 5);
    }

    #[test]
    fn what_is_sent_anew_passes_output_and_postrouting() {
        let (mut host, eth0) = host();
        host.with_hooks(|hooks| {
            hooks.need_tracking(false);
            put(hooks, Hook::Input, List::Hook, 99, 8);
            put(hooks, Hook::Output, List::Hook, -98, 7);
            put(hooks, Hook::Postrouting, List::Hook, 0, 6);
        });
        let outcome = host.receive(&packet("10.1.0.1:53"), eth0);
        assert!(matches!(outcome.fate, Fate::Forwarded(hop) if hop.link == eth0), "{outcome}");
        let seen: Vec<_> =
            host.probe().seen.iter().map(|(hook, number)| (hook.name(), *number)).collect();
        assert_eq!(seen, [("input", 8), ("output", 7), ("postrouting", 6)]);
    }
}
