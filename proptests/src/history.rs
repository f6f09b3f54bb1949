//! Histories of a cluster: objects come, change and go, the proxy syncs now and then, the kernel
//! fails now and then, the proxy restarts. `play.rs` plays one. Tests: `tests/properties.rs`.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use kube_proxy::kernel::fault::Fate as Fault;
use kube_proxy::kernel::{ErrorKind, XtablesWriter};
use kube_proxy::model::Kind;
use kube_proxy::sync::examine::Extent;

use crate::cluster::{Mode, Setup};
use crate::generate::{name, objects, service, setup, slice};
use crate::world::Objects;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// An object comes or changes.
    Put(Kind, Value),
    /// An object goes, if it is there.
    Gone(Kind, String, String),
    /// The node moves to another zone.
    Zone(&'static str),
    /// The proxy syncs.
    Sync,
    /// The proxy clears up what it left for a quiet moment.
    Tidy,
    /// The next calls of the kernel meet these fates.
    Faults(Vec<Fault>),
    /// The proxy dies and another one starts on the same host.
    Restart,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Put(kind, object) => write!(f, "put {} {object}", kind.as_str()),
            Step::Gone(kind, namespace, name) => {
                write!(f, "gone {} {namespace}/{name}", kind.as_str())
            }
            Step::Zone(zone) => write!(f, "zone {zone:?}"),
            Step::Sync => f.write_str("sync"),
            Step::Tidy => f.write_str("tidy"),
            Step::Faults(fates) => write!(f, "faults {fates:?}"),
            Step::Restart => f.write_str("restart"),
        }
    }
}

/// A node, the cluster it starts with and what happens then.
#[derive(Clone, Debug)]
pub struct History {
    /// The node at the beginning.
    pub setup: Setup,
    /// The cluster at the beginning.
    pub objects: Objects,
    /// What happens.
    pub steps: Vec<Step>,
    /// The most bytes of one transaction.
    pub largest: usize,
    /// Who writes in iptables mode.
    pub writer: XtablesWriter,
    /// How much the proxy itself looks at before it writes it.
    pub verify: Extent,
}

/// Whether the kernel may fail in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// It never does.
    Fair,
    /// It may refuse any call, or lose the answer.
    Foul,
}

/// Any history in iptables mode where the rules are written over netlink.
pub fn history_over_netlink(weather: Weather) -> impl Strategy<Value = History> {
    let netlink = |history| History { writer: XtablesWriter::Netlink, ..history };
    history(Mode::Iptables, weather).prop_map(netlink)
}

/// Any history of a proxy in this mode.
pub fn history(mode: Mode, weather: Weather) -> impl Strategy<Value = History> {
    let largest = prop_oneof![2 => Just(usize::MAX), 1 => Just(16_384usize), 1 => Just(4_096)];
    let setup = (setup(), any::<bool>()).prop_map(move |(setup, local)| {
        let localhost_node_ports = local && mode == Mode::Iptables;
        Setup { mode, localhost_node_ports, ..setup }
    });
    (setup, objects(), vec(step(weather), 1..14), largest).prop_map(
        |(setup, objects, steps, largest)| {
            let (writer, verify) = (XtablesWriter::Tool, Extent::Off);
            History { setup, objects, steps, largest, writer, verify }
        },
    )
}

fn step(weather: Weather) -> BoxedStrategy<Step> {
    let put_slice = ((0..5usize).prop_flat_map(slice), 0..8usize).prop_map(|(mut slice, n)| {
        slice["metadata"]["name"] = json!(format!("slice-{n}"));
        Step::Put(Kind::EndpointSlice, slice)
    });
    let slice_gone = (0..5usize, 0..8usize).prop_map(|(owner, n)| {
        Step::Gone(Kind::EndpointSlice, name(owner).0.to_owned(), format!("slice-{n}"))
    });
    let service_gone = (0..5usize).prop_map(|n| {
        let (namespace, name) = name(n);
        Step::Gone(Kind::Service, namespace.to_owned(), name)
    });
    let cidr = (0..2usize, select(vec!["172.30.0.0/16", "172.30.0.0/24", "fd00:172:30::/64"]))
        .prop_map(|(n, cidr)| {
            let metadata = json!({"name": format!("cidr-{n}")});
            let object = json!({"metadata": metadata, "spec": {"cidrs": [cidr]}});
            Step::Put(Kind::ServiceCidr, object)
        });
    let cidr_gone =
        (0..2usize).prop_map(|n| Step::Gone(Kind::ServiceCidr, String::new(), format!("cidr-{n}")));
    let fate = select(vec![
        Fault::Pass,
        Fault::Pass,
        Fault::Refuse(ErrorKind::Busy),
        Fault::Refuse(ErrorKind::Exists),
        Fault::LoseAnswer(ErrorKind::Broken),
    ]);
    let fair = prop_oneof![
        6 => Just(Step::Sync),
        1 => Just(Step::Tidy),
        4 => (0..5usize).prop_flat_map(service).prop_map(|s| Step::Put(Kind::Service, s)),
        5 => put_slice,
        2 => slice_gone,
        1 => service_gone,
        1 => cidr,
        1 => cidr_gone,
        1 => select(vec!["", "a", "b"]).prop_map(Step::Zone),
        1 => Just(Step::Restart),
    ];
    match weather {
        Weather::Fair => fair.boxed(),
        Weather::Foul => {
            prop_oneof![8 => fair, 1 => vec(fate, 1..5).prop_map(Step::Faults)].boxed()
        }
    }
}
