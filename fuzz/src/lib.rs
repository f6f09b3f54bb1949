//! What bytes from outside meet first, one function for each decoder: it must not panic, must end, and must hold what
//! it promises of any input. Called by `cargo fuzz` with bytes it chooses, by `tests/smoke.rs` with seeds and what
//! chance makes of them. It must never know where bytes come from.

use std::path::Path;

use kube_proxy::api::{Decoder, decode_json, decode_text};
use kube_proxy::netlink::read::{Attributes, Messages};
use sim::{Host, Packet, XtFamily, XtRestore, XtTable};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets that are built.
pub const TARGETS: &[Target] = &[
    ("nft", nft),
    ("dump", dump),
    ("iptables", iptables),
    ("ipset", ipset),
    ("ipvs", ipvs),
    ("manifests", manifests),
    ("config", config),
    #[cfg(feature = "kubeconfig")]
    ("kubeconfig", kubeconfig),
];

/// A node with two links, and what it does with packets of each kind.
struct Node {
    host: Host,
    links: [u32; 2],
}

impl Node {
    fn new() -> Node {
        let mut host = Host::new(1);
        let links = [host.add_link("eth0"), host.add_link("cni0")];
        let end = |text: &str| text.parse().expect("a constant address");
        for (link, address, prefix) in
            [(0, "192.168.1.10", 24), (1, "10.1.0.1", 16), (0, "fd5a::10", 64), (1, "fd10::1", 64)]
        {
            host.add_address(links[link], end(address), prefix);
        }
        host.add_route((end("0.0.0.0"), 0), Some(end("192.168.1.1")), links[0]);
        host.add_route((end("::"), 0), Some(end("fd5a::1")), links[0]);
        Node { host, links }
    }

    /// Whatever the rules are, each packet comes to an end.
    fn pass(&mut self) {
        let end = |text: &str| text.parse().expect("a constant end");
        for (number, (source, dest)) in [
            ("203.0.113.1:1024", "10.96.0.1:80"),
            ("203.0.113.2:1025", "192.168.1.10:30080"),
            ("10.1.0.2:1026", "203.0.113.1:443"),
            ("[2600::1]:1024", "[fd96::1]:80"),
        ]
        .into_iter()
        .enumerate()
        {
            let packet = match number % 2 {
                0 => Packet::tcp(end(source), end(dest)),
                _ => Packet::udp(end(source), end(dest)),
            };
            let there = self.host.receive(&packet, self.links[number / 2 % 2]);
            self.host.receive(&there.packet.answer(), self.links[1]);
            self.host.emit(&packet.sent_here());
        }
    }
}

/// A batch of nf_tables: all of it or nothing, and packets come to an end.
pub fn nft(bytes: &[u8]) {
    let mut node = Node::new();
    let before = node.host.nft_generation();
    match node.host.nft_batch(bytes) {
        Ok(()) => node.pass(),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(node.host.nft_generation(), before, "a refused batch changes nothing");
            assert_eq!(node.host.nft().tables().len(), 0, "a refused batch changes nothing");
        }
    }
}

/// A kernel's answer to a listing: messages, attributes, attributes in attributes.
pub fn dump(bytes: &[u8]) {
    let mut room = bytes.len();
    for message in Messages::new(bytes) {
        assert!(message.body.len() <= room, "no more comes out than went in");
        room -= message.body.len();
        nested(message.attributes(), 0);
    }
    nested(Attributes::new(bytes), 0);
}

fn nested(attributes: Attributes<'_>, depth: u32) {
    for (number, value) in attributes {
        assert!(number <= 0x3fff);
        let _ = kube_proxy::netlink::read::text(value);
        if depth < 8 {
            nested(Attributes::new(value), depth + 1);
        }
    }
}

/// A text for iptables-restore: what is printed afterwards is taken, and printed again as it was.
pub fn iptables(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for family in [XtFamily::V4, XtFamily::V6] {
        let mut node = Node::new();
        let how = XtRestore { noflush: text.len() % 2 == 0, counters: text.len() % 3 == 0 };
        if let Err(error) = node.host.iptables_restore(family, &text, how) {
            assert!(!error.to_string().is_empty());
        }
        for table in XtTable::ALL {
            let saved = node.host.iptables_save(family, table);
            let mut again = Node::new();
            let with_counters = XtRestore { counters: true, ..XtRestore::default() };
            let taken = again.host.iptables_restore(family, &saved, with_counters);
            assert!(taken.is_ok(), "{saved}: {taken:?}");
            assert_eq!(again.host.iptables_save(family, table), saved);
        }
        node.pass();
    }
}

/// A text for ipset restore: what is saved is taken, and saved again as it was.
pub fn ipset(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut node = Node::new();
    if let Err(error) = node.host.ipset_restore(&text) {
        assert!(!error.to_string().is_empty());
    }
    let saved = node.host.ipset_save();
    let mut again = Node::new();
    let taken = again.host.ipset_restore(&saved);
    assert!(taken.is_ok(), "{saved}: {taken:?}");
    assert_eq!(again.host.ipset_save(), saved);
}

/// Messages of generic netlink to IPVS, and packets to what they made.
pub fn ipvs(bytes: &[u8]) {
    let mut node = Node::new();
    let answers = node.host.genetlink(bytes);
    dump(&answers);
    node.pass();
}

/// Manifests in YAML or JSON, and an object as an API server sends it.
pub fn manifests(bytes: &[u8]) {
    let mut decoder = Decoder::new("node-1");
    let text = String::from_utf8_lossy(bytes);
    let first = decode_text(&text, &mut decoder);
    let again = decode_text(&text, &mut Decoder::new("node-1"));
    assert_eq!(format!("{first:?}"), format!("{again:?}"), "the same text says the same");
    let _ = decode_json(bytes, &mut decoder);
}

/// A configuration file: refused with a reason, or written and read back the same.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match kube_proxy::config::read(Path::new("config.yaml"), &text) {
        Err(problems) => assert!(!problems.is_empty(), "a refusal says why"),
        Ok(file) => {
            let written = kube_proxy::config::write(&file.wire);
            let again = kube_proxy::config::read(Path::new("config.yaml"), &written);
            assert_eq!(again.map(|file| file.wire), Ok(file.wire), "{written}");
        }
    }
}

/// A kubeconfig: refused with a reason that names the file, or a connection that asks nothing yet.
#[cfg(feature = "kubeconfig")]
pub fn kubeconfig(bytes: &[u8]) {
    use kube_proxy::api::client::{Server, connect};
    // These name programs that the client would start.
    let text = String::from_utf8_lossy(bytes);
    if ["exec", "auth-provider", "cmd-path"].iter().any(|word| text.contains(word)) {
        return;
    }
    let path = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("a file in the temporary folder");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (form, pace) = (String::new(), kube_proxy::api::pace::Pace::default());
    let server = Server { kubeconfig: Some(path.clone()), master: None, form, pace };
    if let Err(error) = runtime.block_on(connect(&server)) {
        assert!(!error.to_string().is_empty());
    }
    let _ = std::fs::remove_file(&path);
}
