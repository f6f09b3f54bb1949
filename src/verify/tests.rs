//! Faults planted in the kernel in memory, in every mode: a compiler that errs would look the same.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::*;
use crate::kernel::Transaction;
use crate::model::{Event, Family, Mode, Reason};
use crate::sync::tests::{feed, options, proxy_with, service, simulated, slice};
use crate::sync::{Options, Proxy};

const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

/// What becomes of a packet to 10.9.9.9, which a faulty compiler would have written.
const FAULT: &str =
    "*filter\n-I FORWARD -d 10.9.9.9/32 -j DROP\n-I OUTPUT -d 10.9.9.9/32 -j DROP\nCOMMIT\n";

/// What goes wrong in the kernel in memory.
#[derive(Clone, Copy)]
enum Fault {
    Nothing,
    /// These rules are there.
    Rules(&'static str),
    /// Our table is gone after the first look.
    TableGone,
}

/// A verifier with a fault.
struct Faulty {
    verifier: Verifier,
    fault: Fault,
}

impl Examiner for Faulty {
    fn begin(&mut self, kernel: &mut dyn Kernel, known: Known<'_>) {
        self.verifier.begin(kernel, known);
        if let Fault::Rules(text) = self.fault {
            let how = sim::XtRestore { noflush: true, counters: false };
            self.verifier.kernel.host().iptables_restore(sim::XtFamily::V4, text, how).unwrap();
        }
    }
    fn shadow(&mut self) -> &mut dyn Kernel {
        self.verifier.shadow()
    }
    fn examine(&mut self, known: Known<'_>, changes: &Changes) -> Vec<Broken> {
        let broken = self.verifier.examine(known, changes);
        if matches!(self.fault, Fault::TableGone) {
            let gone = crate::backend::nftables::removal(Family::V4, "kube-proxy");
            self.verifier.kernel.apply(&Transaction::Nft(gone)).unwrap();
        }
        broken
    }
    fn held_back(&mut self, services: &[NamespacedName]) {
        self.verifier.held_back(services);
    }
    fn found(&mut self, known: Known<'_>, broken: &[Broken]) {
        self.verifier.found(known, broken);
    }
    fn refused(&mut self, error: &Error) {
        self.verifier.refused(error);
    }
}

struct Stage {
    proxy: Proxy,
    kernel: Simulated,
    looks: Arc<Mutex<Vec<Looked>>>,
    kept: Arc<Mutex<Vec<Broken>>>,
}

impl Stage {
    fn new(mode: Mode, extent: Extent, fault: Fault, objects: &str) -> Stage {
        let kernel = simulated();
        let (looks, kept) = (Arc::<Mutex<Vec<Looked>>>::default(), Arc::default());
        let (told, keeps): (_, Arc<Mutex<Vec<Broken>>>) = (looks.clone(), Arc::clone(&kept));
        let verifier = Verifier::new(
            extent,
            Box::new(move |looked| told.lock().unwrap().push(*looked)),
            Box::new(move |_, broken| keeps.lock().unwrap().extend_from_slice(broken)),
        );
        let pods = vec!["10.1.0.0/16".parse().unwrap()];
        let detector = crate::model::LocalDetector::Cidrs(pods);
        let options = Options { mode, detector, ..options() };
        let proxy = proxy_with(options, Box::new(kernel.clone()), objects)
            .examined_by(Box::new(Faulty { verifier, fault }));
        Stage { proxy, kernel, looks, kept }
    }

    fn sync(&mut self) {
        self.proxy.sync().unwrap();
    }

    fn last(&self) -> Looked {
        *self.looks.lock().unwrap().last().unwrap()
    }

    fn broken(&self) -> Vec<String> {
        let notices = self.proxy.notices().into_iter();
        let broken = notices.filter(|notice| notice.reason == Reason::PromiseBroken);
        broken.map(|notice| notice.object.to_string()).collect()
    }

    /// Where new connections to a cluster IP go.
    fn ends(&self, to: &str) -> BTreeSet<String> {
        let from: SocketAddr = "10.1.9.9:4000".parse().unwrap();
        let packet = sim::Packet::tcp(from, SocketAddr::new(to.parse().unwrap(), 80)).arriving(2);
        let outcomes = self.kernel.host().outcomes(&packet);
        outcomes.iter().filter_map(|(_, o)| o.dnat).map(|(a, _)| a.to_string()).collect()
    }
}

fn two_services() -> String {
    service("web", "10.96.0.1", "")
        + &slice("web", "TCP", &["10.1.0.1"])
        + &service("other", "10.96.0.2", "")
        + &slice("other", "TCP", &["10.1.0.2"])
}

#[test]
fn honest_changes_are_looked_at_and_written() {
    for mode in ALL {
        for extent in [Extent::Sample, Extent::Full] {
            let mut stage = Stage::new(mode, extent, Fault::Nothing, &two_services());
            stage.sync();
            assert_eq!(
                (stage.last().services, stage.last().broken),
                (2, 0),
                "{mode:?} {:?}",
                stage.kept.lock().unwrap()
            );
            assert!(stage.last().packets > 4, "{mode:?} {:?}", stage.last());
            for endpoints in [&["10.1.0.3", "10.1.0.4"][..], &["10.1.0.4"], &[], &["10.1.0.5"]] {
                feed(&mut stage.proxy, &slice("web", "TCP", endpoints));
                stage.sync();
                stage.proxy.tidy().unwrap();
                assert_eq!(stage.broken(), [""; 0], "{mode:?}");
                if !matches!(mode, Mode::Userspace | Mode::Ipvs) {
                    let wanted: BTreeSet<String> =
                        endpoints.iter().map(|e| (*e).to_owned()).collect();
                    assert_eq!(stage.ends("10.96.0.1"), wanted, "{mode:?}");
                }
            }
            stage.proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "web")));
            stage.sync();
            let looks = stage.looks.lock().unwrap().len();
            let last = stage.last();
            assert_eq!(
                (looks, last.broken, last.unknown, last.refused),
                (6, 0, 0, false),
                "{mode:?}"
            );
            assert_eq!(stage.ends("10.96.0.1"), BTreeSet::new(), "{mode:?}");
        }
    }
}

#[test]
fn what_would_break_a_promise_is_kept_back_and_the_rest_goes_on() {
    for mode in [Mode::Nftables, Mode::Iptables] {
        let mut stage = Stage::new(mode, Extent::Sample, Fault::Rules(FAULT), &two_services());
        stage.sync();
        assert_eq!(stage.broken(), [""; 0], "{mode:?}");
        feed(&mut stage.proxy, &slice("web", "TCP", &["10.1.0.1", "10.9.9.9"]));
        feed(&mut stage.proxy, &slice("other", "TCP", &["10.1.0.7"]));
        stage.sync();
        assert_eq!(stage.broken(), ["ns/web"], "{mode:?}");
        assert_eq!(stage.ends("10.96.0.1"), BTreeSet::from(["10.1.0.1".to_owned()]), "{mode:?}");
        assert_eq!(stage.ends("10.96.0.2"), BTreeSet::from(["10.1.0.7".to_owned()]), "{mode:?}");
        let kept = stage.kept.lock().unwrap().clone();
        assert_eq!(kept.len(), 1);
        assert!(
            kept[0].example.contains("10.9.9.9") && kept[0].example.contains("10.96.0.1"),
            "{kept:?}"
        );
        // As long as it does not change it is asked no more, and said no more.
        feed(&mut stage.proxy, &slice("other", "TCP", &["10.1.0.8"]));
        stage.sync();
        assert_eq!(
            (stage.broken(), stage.kept.lock().unwrap().len()),
            (vec!["ns/web".to_owned()], 1)
        );
        feed(&mut stage.proxy, &slice("web", "TCP", &["10.1.0.1", "10.1.0.9"]));
        stage.sync();
        assert_eq!(stage.broken(), [""; 0], "{mode:?}");
        assert_eq!(stage.ends("10.96.0.1").len(), 2, "{mode:?}");
    }
}

#[test]
fn where_there_is_nothing_to_go_back_to_it_is_said_and_programmed() {
    let objects = two_services() + &slice("other", "TCP", &["10.9.9.9"]);
    let mut stage = Stage::new(Mode::Nftables, Extent::Full, Fault::Rules(FAULT), &objects);
    stage.sync();
    assert_eq!(stage.broken(), ["ns/other"]);
    assert_eq!(stage.ends("10.96.0.2"), BTreeSet::from(["10.9.9.9".to_owned()]));
}

#[test]
fn a_service_that_is_gone_may_not_go_on_to_be_served() {
    const STAYS: &str = "*nat\n-I PREROUTING -d 10.96.0.2/32 -p tcp -j DNAT --to-destination 10.1.0.2:8080\nCOMMIT\n";
    let mut stage =
        Stage::new(Mode::Iptables, Extent::Sample, Fault::Rules(STAYS), &two_services());
    stage.sync();
    stage.proxy.feed(Event::ServiceGone(NamespacedName::new("ns", "other")));
    stage.sync();
    assert_eq!(stage.kept.lock().unwrap().len(), 1);
    assert_eq!(stage.broken(), ["ns/other"]);
}

#[test]
fn what_the_kernel_in_memory_does_not_take_is_written_and_not_looked_at() {
    let mut stage = Stage::new(Mode::Nftables, Extent::Sample, Fault::TableGone, &two_services());
    stage.sync();
    for endpoint in ["10.1.0.8", "10.1.0.9"] {
        feed(&mut stage.proxy, &slice("web", "TCP", &[endpoint]));
        stage.sync();
        assert_eq!(stage.ends("10.96.0.1"), BTreeSet::from([endpoint.to_owned()]));
        assert!(stage.last().refused);
    }
    // It was said once; and everything that is written anew is looked at again.
    assert_eq!(stage.looks.lock().unwrap().len(), 2);
    stage.proxy.distrust_kernel();
    stage.sync();
    assert!(!stage.last().refused);
}

#[test]
fn a_sample_comes_round_to_every_service() {
    let many: String = (0..40)
        .map(|n| {
            let name = format!("s{n:02}");
            service(&name, &format!("10.96.1.{n}"), "") + &slice(&name, "TCP", &["10.1.0.1"])
        })
        .collect();
    let mut stage =
        Stage::new(Mode::Nftables, Extent::Sample, Fault::Nothing, &(two_services() + &many));
    stage.sync();
    let before = stage.last().services;
    assert_eq!(before, 42);
    let mut verified = 0;
    for n in 0..12 {
        feed(&mut stage.proxy, &slice("web", "TCP", &[&format!("10.1.0.{}", n + 10)]));
        stage.sync();
        verified += stage.last().services;
    }
    assert!(verified >= 42 + 10, "{verified}");
}

/// Those that the simulator has, one that draws lots, and one that nobody ever heard of.
#[test]
fn a_service_may_have_any_scheduler_and_all_go_on_to_be_looked_at() {
    for scheduler in ["lblc", "lblcr", "ovf", "fo", "twos", "of-my-own"] {
        let mut stage = Stage::new(Mode::Ipvs, Extent::Sample, Fault::Nothing, &two_services());
        stage.sync();
        let annotated =
            format!("namespace: ns, annotations: {{kube-proxy.io/ipvs-scheduler: {scheduler}}}}}");
        let web = service("web", "10.96.0.1", "").replacen("namespace: ns}", &annotated, 1);
        feed(&mut stage.proxy, &web);
        // The real kernel may not have it; what is in memory is.
        let _ = stage.proxy.sync();
        assert!(!stage.last().refused, "{scheduler}");
        let before = stage.looks.lock().unwrap().len();
        feed(&mut stage.proxy, &slice("other", "TCP", &["10.1.0.7"]));
        let _ = stage.proxy.sync();
        assert!(stage.looks.lock().unwrap().len() > before, "{scheduler}: nothing is looked at");
        assert!(!stage.last().refused, "{scheduler}");
    }
}
