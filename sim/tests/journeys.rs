//! What a person reads: the trace of a packet.

mod support;

use support::{services, tcp};

#[test]
fn a_trace_names_each_hook_chain_rule_and_lookup() {
    let mut node = services();
    let journey = node.host.send(&tcp("10.1.0.2:40000", "10.96.0.40:80").arriving(node.cni0));
    let expected = "\
tcp 10.1.0.2:40000 → 10.96.0.40:80 [S]
prerouting
  connection: New
  inet simfix filter_pre (priority -110)
    filter_pre rule 39: goto noep
      blocked { 10.96.0.40 . tcp . 80 } → goto noep
    noep rule 24: reject UnreachableX(1)
⇒ rejected with UnreachableX(1) at prerouting simfix noep rule 24: tcp 10.1.0.2:40000 → 10.96.0.40:80 [S]";
    assert_eq!(journey.to_string(), expected);
}

#[test]
fn a_journey_knows_the_connection_before_and_after() {
    let mut node = services();
    let first = tcp("192.168.1.77:40000", "10.96.0.1:443").arriving(node.eth0);
    let journey = node.host.send(&first);
    assert!(journey.outcome.before.is_none());
    let made = journey.outcome.after.expect("a connection is made");
    let again = node.host.send(&first);
    let before = again.outcome.before.expect("it is found");
    assert_eq!((before.original, before.reply), (made.original, made.reply));
    assert_eq!(again.outcome.dnat, journey.outcome.dnat);
}
