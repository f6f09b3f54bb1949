//! Other addresses for those that a dump names: every prefix and the order of all of them are kept,
//! so that networks still hold what they held and intervals still begin and end where they did.
//!
//! All addresses of a family are leaves of one binary tree. Where the tree branches, a bit has to
//! stay what it is, or the order would change; where it does not, the bit is free, and chance says
//! what it becomes. Bits behind the prefix of a network, and ranges that the kernel itself gives a
//! meaning, are never free. (Prefix-preserving without the order: Xu, Fan, Ammar, Moon,
//! "Prefix-preserving IP address anonymization", 2002.) Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::kernel::relay_address;
use crate::model::Family;

/// What has a meaning of its own: this network, loopback, link-local, what is for documentation (there
/// is who stands for somebody outside), and multicast with what is behind it, where masks are too.
const MEANT: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/127",
    "2001:db8::/32",
    "fe80::/10",
    "ff00::/8",
];
/// How often chance is asked for a tree in which nobody finds an address of the first one.
const TRIES: u64 = 16;

/// An address as a number: the bits from the left.
type Bits = u128;

/// Addresses by family, each with the number of leading bits that may change.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    leaves: BTreeMap<(Family, Bits), u8>,
    /// Those of the leaves that the text itself has, and that mean nothing.
    named: BTreeSet<IpAddr>,
    /// What is never another.
    meant: Vec<IpNet>,
}

/// The other addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    by_address: BTreeMap<IpAddr, IpAddr>,
    /// How many are still named somewhere in the text, because nothing about them was free.
    pub(super) kept: usize,
}

impl Others {
    /// What stands for an address; itself if it has a meaning or was never noted.
    pub(super) fn of(&self, address: IpAddr) -> IpAddr {
        self.by_address.get(&address).copied().unwrap_or(address)
    }
}

impl Tree {
    pub(super) fn new() -> Tree {
        let (leaves, named) = (BTreeMap::new(), BTreeSet::new());
        let mut tree = Tree { leaves, named, meant: meant().collect() };
        for network in tree.meant.clone() {
            let family = Family::of(network.addr());
            tree.leaf(family, bits(network.network()), 0);
            tree.leaf(family, bits(network.broadcast()), 0);
        }
        tree
    }

    /// Notes an address, alone or with the prefix length of its network.
    pub(super) fn note(&mut self, address: IpAddr, prefix: Option<u8>) {
        let family = Family::of(address);
        let means = self.meant.iter().any(|network| network.contains(&address));
        let free = if means { 0 } else { family.address_bits() };
        self.leaf(family, bits(address), free);
        if free > 0 {
            self.named.insert(address);
        }
        let network = prefix.and_then(|length| IpNet::new(address, length).ok());
        let Some(network) = network.filter(|n| n.prefix_len() < n.max_prefix_len()) else { return };
        let (first, last) = (bits(network.network()), bits(network.broadcast()));
        let length = network.prefix_len();
        // Where an interval ends, as the kernel keeps it: the first address behind it.
        let one = 1 << (128 - u32::from(family.address_bits()));
        let behind = Some(last).and_then(|last| last.checked_add(one));
        let common = behind.map_or(length, |behind| (first ^ behind).leading_zeros() as u8);
        self.leaf(family, first, common.min(length));
        self.leaf(family, last, length);
        if let Some(behind) = behind {
            self.leaf(family, behind, common);
        }
    }

    fn leaf(&mut self, family: Family, bits: Bits, free: u8) {
        let leaf = self.leaves.entry((family, bits)).or_insert(free);
        *leaf = free.min(*leaf);
    }

    /// Asks chance, which a number begins.
    pub(super) fn others(&self, seed: u64) -> Others {
        let tries = (0..TRIES).map(|turn| self.once(seed.wrapping_add(turn)));
        let mut best: Option<Others> = None;
        for others in tries {
            let done = others.kept == 0;
            if best.as_ref().is_none_or(|best| others.kept < best.kept) {
                best = Some(others);
            }
            if done {
                break;
            }
        }
        best.unwrap_or_default()
    }

    fn once(&self, seed: u64) -> Others {
        let mut others = Others::default();
        for family in Family::ALL {
            let leaves: Vec<(Bits, u8)> = self
                .leaves
                .range((family, 0)..=(family, Bits::MAX))
                .map(|((_, bits), free)| (*bits, *free))
                .collect();
            let mut branch = Branch { seed, family, others: &mut others.by_address };
            branch.grow(&leaves, 0, 0);
        }
        let other = self.named.iter().map(|address| others.of(*address));
        others.kept = other.filter(|other| self.named.contains(other)).count();
        others
    }
}

/// A walk from the root to the leaves.
struct Branch<'a> {
    seed: u64,
    family: Family,
    others: &'a mut BTreeMap<IpAddr, IpAddr>,
}

impl Branch<'_> {
    /// Leaves that are alike in the bits before `depth`, which have become `path`.
    fn grow(&mut self, leaves: &[(Bits, u8)], depth: u8, path: Bits) {
        let Some((first, free)) = leaves.first() else { return };
        // Nothing branches any more below the last leaf.
        if leaves.len() == 1 && depth < *free {
            let below = self.place(depth) & !self.place(*free);
            let path = path | self.hash(*first, depth) & below | first & self.place(*free);
            self.others.insert(address(self.family, *first), address(self.family, path));
            return;
        }
        if depth == self.family.address_bits() {
            self.others.insert(address(self.family, *first), address(self.family, path));
            return;
        }
        let place: Bits = 1 << (127 - depth);
        let middle = leaves.partition_point(|(bits, _)| bits & place == 0);
        let (zeros, ones) = leaves.split_at(middle);
        match (zeros.is_empty(), ones.is_empty()) {
            (false, false) => {
                self.grow(zeros, depth + 1, path);
                self.grow(ones, depth + 1, path | place);
            }
            _ => {
                let fixed = leaves.iter().any(|(_, free)| *free <= depth);
                let one = if fixed { first & place != 0 } else { self.chance(*first, depth) };
                self.grow(leaves, depth + 1, if one { path | place } else { path });
            }
        }
    }

    /// All bits of the family from a depth on.
    fn place(&self, depth: u8) -> Bits {
        let from = |depth: u8| Bits::MAX.checked_shr(u32::from(depth)).unwrap_or(0);
        from(depth) & !from(self.family.address_bits())
    }

    fn chance(&self, bits: Bits, depth: u8) -> bool {
        self.hash(bits, depth) & 1 == 1
    }

    /// The same for the same place of the tree.
    fn hash(&self, bits: Bits, depth: u8) -> Bits {
        let above = bits & !self.place(depth);
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(above.to_le_bytes());
        hash.update([depth]);
        let hash = hash.finalize();
        hash.iter().take(16).fold(0, |bits, byte| bits << 8 | Bits::from(*byte))
    }
}

fn meant() -> impl Iterator<Item = IpNet> {
    let relays = Family::ALL.map(relay_address).map(IpNet::from);
    MEANT.iter().filter_map(|text| text.parse().ok()).chain(relays)
}

fn bits(address: IpAddr) -> Bits {
    match address {
        IpAddr::V4(v4) => Bits::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(family: Family, bits: Bits) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from((bits >> 96) as u32).into(),
        Family::V6 => Ipv6Addr::from(bits).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn noted(networks: &[IpNet]) -> Tree {
        let mut tree = Tree::new();
        networks.iter().for_each(|n| tree.note(n.addr(), Some(n.prefix_len())));
        tree
    }

    #[test]
    fn what_has_a_meaning_stays_and_the_rest_goes() {
        let cluster =
            ["10.244.1.7/24", "10.96.0.10/32", "172.18.0.2/16", "fd00:10:244::5/64"].map(net);
        let meaning =
            ["127.0.0.53/32", "0.0.0.0/0", "169.254.20.10/32", "::1/128", "fe80::1/64"].map(net);
        let others = noted(&[&cluster[..], &meaning[..]].concat()).others(1);
        assert_eq!(others.kept, 0);
        cluster.iter().for_each(|n| assert_ne!(others.of(n.addr()), n.addr()));
        meaning.iter().for_each(|n| assert_eq!(others.of(n.addr()), n.addr()));
    }

    #[test]
    fn where_nothing_is_free_it_is_counted() {
        let crowded = u32::from(Ipv4Addr::new(10, 0, 0, 1));
        let neighbours = (0..32).map(|n| Ipv4Addr::from(crowded ^ 1 << n));
        let mut tree = Tree::new();
        neighbours.chain([crowded.into()]).for_each(|a| tree.note(a.into(), None));
        let others = tree.others(1);
        assert_eq!(others.of(Ipv4Addr::from(crowded).into()), Ipv4Addr::from(crowded));
        assert!(others.kept > 0);
    }

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, n)| (IpAddr::from(a), n));
        // Much that lies together, as in a cluster.
        let near = (0u8..4, any::<u8>(), 16u8..=32)
            .prop_map(|(a, b, n)| (IpAddr::from([10, 240 | a, a, b]), n));
        let v6 = (any::<u16>(), 0u8..=128)
            .prop_map(|(a, n)| (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, a, a).into(), n));
        let one = prop_oneof![v4, near, v6].prop_map(|(a, n)| IpNet::new(a, n).unwrap());
        prop::collection::vec(one, 1..60)
    }

    proptest! {
        /// Order, networks with their first and last addresses, and who is in whose network.
        #[test]
        fn order_and_prefixes_are_kept(networks in networks(), seed: u64) {
            let others = noted(&networks).others(seed);
            let other = |n: &IpNet| IpNet::new(others.of(n.addr()), n.prefix_len()).unwrap();
            for one in &networks {
                prop_assert_eq!(others.of(one.network()), other(one).network());
                prop_assert_eq!(others.of(one.broadcast()), other(one).broadcast());
                for two in &networks {
                    let (a, b) = (one.addr(), two.addr());
                    prop_assert_eq!(a.cmp(&b), others.of(a).cmp(&others.of(b)));
                    prop_assert_eq!(one.contains(&b), other(one).contains(&others.of(b)));
                }
            }
        }
    }
}
