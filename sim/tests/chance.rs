//! Chance: seeds, and every outcome without side effects.

mod support;

use support::{services, tcp};

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut node = services();
        (0..50)
            .map(|port| {
                node.host.fate(
                    &tcp(&format!("192.168.1.77:{}", 40000 + port), "10.96.0.1:443")
                        .arriving(node.eth0),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn asking_for_outcomes_changes_nothing() {
    let (mut asked, mut unasked) = (services(), services());
    for port in 0..20 {
        let packet = tcp(
            &format!("10.1.0.2:{}", 40000 + port),
            if port % 2 == 0 { "10.96.0.30:80" } else { "10.96.0.1:443" },
        )
        .arriving(asked.cni0);
        asked.host.outcomes(&packet);
        asked.host.outcomes(&packet.answer());
        assert_eq!(asked.host.fate(&packet), unasked.host.fate(&packet));
        assert_eq!(asked.host.connections(), unasked.host.connections());
    }
}
