//! The planned table: a number found in one map is the key of the next.

mod support;

use sim::{Fate, Probability};
use support::bytes::Batch;
use support::{ip, node, planned, tcp};

#[test]
fn a_number_from_one_map_is_the_key_of_the_next() {
    let mut node = node();
    let mut batch = planned::skeleton(4);
    planned::elements(&mut batch, 0..50, 3);
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    let outcomes = node.host.outcomes(&tcp("172.20.0.5:4000", "10.96.0.7:80").arriving(node.eth0));
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes.iter().all(|(chance, outcome)| *chance == Probability::new(1, 3)
        && matches!(outcome.fate, Fate::Forwarded(_))));
    assert_eq!(outcomes[0].1.snat.map(|(address, _)| address), Some(ip("192.168.1.10")));
    let miss = node.host.fate(&tcp("172.20.0.5:4000", "10.96.0.7:81").arriving(node.eth0));
    assert_eq!(miss.dnat, None);
    let mut one = Batch::default();
    planned::elements(&mut one, 50..51, 1);
    node.host.nft_batch(&one.end()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        node.host.outcomes(&tcp("172.20.0.5:4000", "10.96.0.50:80").arriving(node.eth0)).len(),
        1
    );
}
