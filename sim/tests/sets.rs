//! Sets of each kind find what they hold.

mod support;

use sim::Family;
use std::time::Duration;
use support::bytes::{Batch, CREATE, be64, element, msg};
use support::services;

#[test]
fn each_kind_of_set_finds_what_it_holds() {
    let mut node = services();
    let found = |host: &sim::Host, set: &str, key: &[u8]| {
        let table = host.nft().table(Family::Inet, "simfix").expect("it was made");
        table.set(set).expect("it was made").find(key).is_some()
    };
    let ranges = |a: u8, b: u8, c: u8, d: u8| [10, 96, 0, 20, 6, 0, 0, 0, 0, 80, 0, 0, a, b, c, d];
    let host = &node.host;
    for (key, expected) in [
        ([192, 168, 0, 0], true),
        ([192, 168, 255, 255], true),
        ([192, 169, 0, 0], false),
        ([10, 0, 0, 4], false),
        ([10, 0, 0, 5], true),
        ([10, 0, 0, 9], true),
        ([10, 0, 0, 10], false),
    ] {
        assert_eq!(
            found(host, "ranges", &ranges(key[0], key[1], key[2], key[3])),
            expected,
            "{key:?}"
        );
    }
    for (key, expected) in [
        ([126, 255, 255, 255], false),
        ([127, 0, 0, 0], true),
        ([127, 255, 255, 255], true),
        ([128, 0, 0, 0], false),
        ([172, 31, 255, 255], true),
        ([172, 32, 0, 0], false),
        ([10, 5, 0, 77], true),
        ([10, 5, 0, 78], false),
    ] {
        assert_eq!(found(host, "locals", &key), expected, "{key:?}");
    }
    assert!(found(host, "hairpin", &[10, 1, 0, 7, 10, 1, 0, 7]));
    let mut batch = Batch::default();
    batch.set(("simfix", "short"), 0x10, (4, None), &[be64(11, 5000)]);
    batch.elements(
        ("simfix", "short"),
        msg::NEWSETELEM,
        CREATE,
        &[element(&[1; 4], &[]), element(&[2; 4], &[be64(4, 9000)])],
    );
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    node.host.advance(Duration::from_secs(6));
    assert!(!found(&node.host, "short", &[1; 4]));
    assert!(found(&node.host, "short", &[2; 4]));
}
