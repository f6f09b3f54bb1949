//! A setting: the lab with its pods, a folder of manifests that can be changed, and kube-proxy
//! running on it. What demo and scenarios have in common. Tests: with the scenarios.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{Outcome, ask_tcp, ask_udp};
use crate::lab::Lab;
use crate::load::PATIENCE;
use crate::manifests::{Manifests, Transport};
use crate::plan;
use crate::probe::{Expected, Probe, Row, judge};
use crate::process::Rights;
use crate::proxy::{Input, KubeProxy, Start};
use crate::scratch::Scratch;
use crate::sctp;

/// How long something that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long a client waits before it says that there is only silence. Shorter than TCP's first
/// retransmission, so that a lost probe is one packet.
const SILENCE: Duration = Duration::from_millis(800);
/// How long a client waits that is to be refused. Over veth the ICMPv6 error comes while `connect` still
/// holds the socket; Linux then lets it pass, and hears the next one at TCP's first retransmission.
const REFUSAL: Duration = Duration::from_millis(1500);

/// The lab with all that belongs to a run.
pub struct Setting {
    /// The namespaces. Declared before the scratch folder: it ends first.
    pub lab: Lab,
    /// The objects as kube-proxy is to see them.
    pub manifests: Manifests,
    /// The running kube-proxy.
    pub proxy: Option<KubeProxy>,
    /// Files of this run.
    pub scratch: Scratch,
    binary: PathBuf,
    folder: PathBuf,
    starts: usize,
}

impl Setting {
    /// Builds the lab with the pods of the manifests; kube-proxy is not started yet.
    pub fn new(binary: &Path, manifests: Manifests) -> Result<Setting, String> {
        let scratch = Scratch::new()?;
        let folder = scratch.folder("manifests")?;
        let mut lab = Lab::new()?;
        lab.start_pods(&manifests.pods())?;
        let mut setting = Setting {
            lab,
            manifests,
            proxy: None,
            scratch,
            binary: binary.to_owned(),
            folder,
            starts: 0,
        };
        setting.manifests.write(&setting.folder)?;
        Ok(setting)
    }

    /// The same for the files of a folder, which are copied as they are.
    pub fn of_folder(binary: &Path, source: &Path) -> Result<Setting, String> {
        let setting = Setting::new(binary, Manifests::read(source)?)?;
        let listed = std::fs::read_dir(source).map_err(|e| format!("{}: {e}", source.display()))?;
        for entry in listed.flatten().filter(|e| e.path().is_file()) {
            let to = setting.folder.join(entry.file_name());
            std::fs::copy(entry.path(), &to).map_err(|e| format!("{}: {e}", to.display()))?;
        }
        Ok(setting)
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A start of kube-proxy on the manifests with further flags, to be changed before it is made.
    pub fn start(&mut self, flags: &[&str]) -> Start {
        self.starts += 1;
        Start {
            binary: self.binary.clone(),
            input: Input::Manifests(self.folder.clone()),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            rights: Rights::Ours,
            log: self.scratch.path().join(format!("kube-proxy-{}.log", self.starts)),
        }
    }

    /// Starts kube-proxy on the manifests.
    pub fn start_proxy(&mut self) -> Result<(), String> {
        self.start_proxy_with(&[])
    }

    /// Starts kube-proxy on the manifests with further flags.
    pub fn start_proxy_with(&mut self, flags: &[&str]) -> Result<(), String> {
        let start = self.start(flags);
        self.proxy = Some(KubeProxy::start(&self.lab, &start)?);
        Ok(())
    }

    /// Starts kube-proxy on an API server.
    pub fn start_proxy_on(&mut self, url: &str, flags: &[&str]) -> Result<(), String> {
        let start = Start { input: Input::Server(url.to_owned()), ..self.start(flags) };
        self.proxy = Some(KubeProxy::start(&self.lab, &start)?);
        Ok(())
    }

    /// Ends kube-proxy with a signal; says how long it took.
    pub fn stop_proxy(&mut self, signal: Signal) -> Result<Duration, String> {
        self.proxy.take().ok_or("kube-proxy is not running")?.stop(signal)
    }

    /// Shows the changed manifests to kube-proxy; pods that are new are started before.
    pub fn publish(&mut self) -> Result<(), String> {
        self.lab.start_pods(&self.manifests.pods())?;
        self.manifests.write(&self.folder)
    }

    /// Shows the changed manifests to kube-proxy without starting any pods.
    pub fn write(&mut self) -> Result<(), String> {
        self.manifests.write(&self.folder)
    }

    /// Writes any file into the folder of manifests.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Changes one object and shows it.
    pub fn edit(
        &mut self,
        kind: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), String> {
        let known = self.manifests.get(kind, name).ok_or(format!("no {kind} {name}"))?;
        let mut object = known.clone();
        change(&mut object);
        self.manifests.put(object);
        self.publish()
    }

    /// Makes one attempt of a probe.
    pub fn attempt(&self, probe: &Probe) -> Outcome {
        let patience = if probe.expected == Expected::Lost { SILENCE } else { PATIENCE };
        self.attempt_within(probe, patience)
    }

    fn attempt_within(&self, probe: &Probe, patience: Duration) -> Outcome {
        let Some(place) = self.lab.place(&probe.who) else {
            return Outcome::Broken(format!("nobody is called {}", probe.who));
        };
        // The client outside has two addresses a family: which one it is must not be left to chance.
        let own = match probe.who.as_str() {
            "outside" => plan::OUTSIDE_NET.own.map(plan::ip).to_vec(),
            "stranger" => plan::STRANGER.map(plan::ip).to_vec(),
            _ => Vec::new(),
        };
        let source = own.into_iter().find(|a| a.is_ipv4() == probe.to.is_ipv4());
        place.run(|| match probe.transport {
            Transport::Tcp => ask_tcp(source, probe.to, patience),
            Transport::Udp => ask_udp(source, probe.to, patience),
            Transport::Sctp => sctp::ask(source, probe.to, patience),
        })
    }

    /// Whether this machine can ask a probe at all.
    pub fn can_ask(&self, probe: &Probe) -> bool {
        probe.to.is_ipv4() || self.lab.ipv6()
    }

    /// Asks a probe until it is answered as expected, or the deadline has passed.
    pub fn wait_for(&mut self, probe: &Probe) -> Result<Row, String> {
        let began = Instant::now();
        let patience = if probe.expected == Expected::Refused { REFUSAL } else { SILENCE };
        loop {
            let row = judge(probe, &mut || self.attempt_within(probe, patience));
            let Some(wrong) = &row.wrong else { return Ok(row) };
            if let Some(status) = self.proxy.as_mut().and_then(|p| p.process.ended()) {
                return Err(format!("kube-proxy ended: {status}\n{}", self.last_words()));
            }
            if began.elapsed() > DEADLINE {
                let what = format!("{} from {}", row.to, row.who);
                return Err(format!("{what}: still after {DEADLINE:?}: {wrong}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What kube-proxy said last, for a failure's report.
    pub fn last_words(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("kube-proxy's last words:\n{}", proxy.process.last_words(15)),
            None => "kube-proxy is not running".to_owned(),
        }
    }
}
