//! What an operator sees and touches: the status page, a configuration file that changes, the log
//! level, least rights, a service manager. From outside, over HTTP, files and sockets.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::served::listener;
use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::apiserver::{ApiServer, Manners, Shared};
use crate::page::{Page, fetch};
use crate::probe::{Probe, judge};
use crate::proxy::{KubeProxy, Mode, mode};
use crate::setting::{DEADLINE, Setting};

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("status-page", |bench| play(bench, status_page)),
    scenario("status-page-in-a-browser", |bench| play(bench, browser)),
    scenario("config-map-swapped", config_map),
    scenario("api-staleness-is-told", api_staleness),
    scenario("net-admin-only-after-init", net_admin_only),
    scenario("service-manager-is-told", service_manager),
    scenario("bash-completes-names", bash_completes),
];

const METRICS: &str = "127.0.0.1:10249";
/// The Service of the examples that is asked here.
const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";

fn play(bench: &Bench, act: fn(&mut Setting) -> Verdict) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy_with(&["--metrics-bind-address=127.0.0.1:10249"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let verdict = act(&mut setting);
    told(&setting, verdict)
}

pub(super) fn ask(setting: &Setting, path: &str) -> Result<Page, String> {
    let metrics: SocketAddr = METRICS.parse().expect("well-formed");
    setting.lab.node.run(|| fetch(metrics, path))
}

/// A page that has all these words, with this status.
fn page_has(setting: &Setting, path: &str, (status, words): (u16, &[&str])) -> Result<(), String> {
    let page = ask(setting, path)?;
    if page.status != status {
        return Err(format!("{path}: {} instead of {status}: {}", page.status, page.body));
    }
    match words.iter().find(|word| !page.body.contains(**word)) {
        Some(word) => Err(format!("{path} says nothing of {word:?}: {}", page.body)),
        None => Ok(()),
    }
}

fn status_page(setting: &mut Setting) -> Verdict {
    let endpoints = if setting.lab.ipv6() { "6 of 6" } else { "3 of 3" };
    let list = ["default/web", "10.96.0.10", endpoints, "after the change", "keeps up"];
    page_has(setting, "/?q=default/web", (200, &list))?;
    let one = ["10.244.1.11:8080", "chosen for cluster traffic", "node-1"];
    page_has(setting, "/service?namespace=default&name=web", (200, &one))?;
    page_has(setting, "/service?namespace=default&name=nobody", (404, &["no Service"]))?;
    // The packet's fate is held against what the real kernel does with one: `WEB`, seen above.
    let packet = "/packet?from=pod&source=10.244.1.200&destination=10.96.0.10&port=80";
    let fates = ["33.3 %", "10.244.1.11:8080", "10.244.1.12:8080", "default/web:http"];
    page_has(setting, packet, (200, &fates))?;
    let wrong = "/packet?from=pod&source=10.244.1.200&destination=10.96.0.10&port=x";
    page_has(setting, wrong, (400, &["a number from 1 to 65535"]))?;
    let page = ask(setting, "/")?;
    for (header, value) in
        [("content-security-policy", "default-src 'none'"), ("content-type", "text/html")]
    {
        if !page.header(header).starts_with(value) {
            return Err(format!("{header}: {}", page.header(header)).into());
        }
    }
    Ok(String::new())
}

/// The page as Chromium lays it out: it has to render what was asked for, and fetch nothing else.
fn browser(setting: &mut Setting) -> Verdict {
    let Some(chromium) = ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        return Err(Stop::Skipped("chromium is not installed".to_owned()));
    };
    let profile = setting.scratch.folder("chromium")?;
    let picture = setting.scratch.path().join("page.png");
    let url = format!("http://{METRICS}/service?namespace=default&name=web");
    let run = |last: &str| {
        let mut command = Command::new(chromium);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
        command.args(["--disable-component-update", "--window-size=1200,900"]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        let output = setting.lab.node.run(|| command.arg(last).arg(&url).output());
        output.map_err(|e| format!("{chromium}: {e}"))
    };
    let dom = String::from_utf8_lossy(&run("--dump-dom")?.stdout).into_owned();
    for words in ["default/web", "chosen for cluster traffic", "10.244.1.11:8080"] {
        if !dom.contains(words) {
            return Err(format!("the browser shows nothing of {words:?}: {dom}").into());
        }
    }
    run(&format!("--screenshot={}", picture.display()))?;
    let bytes = std::fs::read(&picture).map_err(|e| format!("{}: {e}", picture.display()))?;
    // A blank page of that size has some 5,000 bytes.
    if !bytes.starts_with(b"\x89PNG") || bytes.len() < 20_000 {
        return Err(format!("no picture of a page: {} bytes", bytes.len()).into());
    }
    Ok(format!("{} bytes of picture", bytes.len()))
}

fn api_staleness(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let shared = Shared::new(Manners::default());
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start(listener(&setting, 6443)?, shared)?;
    setting.start_proxy_on(&server.url(), &["--metrics-bind-address=127.0.0.1:10249"])?;
    setting.wait_for(&Probe::parse(WEB)?)?;
    let page = ask(&setting, "/metrics")?;
    for kind in ["Service", "EndpointSlice", "Node", "ServiceCIDR"] {
        let silent = page.figure(&format!("kubeproxy_api_staleness_seconds{{kind=\"{kind}\"}}"));
        let lists = page.figure(&format!("kubeproxy_api_lists_total{{kind=\"{kind}\"}}"));
        let silent: Option<f64> = silent.and_then(|s| s.parse().ok());
        if silent.is_none_or(|s| s > 30.0) || lists != Some("1") {
            return told(&setting, Err(format!("{kind}: {silent:?} s, {lists:?} lists").into()));
        }
    }
    Ok(String::new())
}

/// A folder as the kubelet mounts a ConfigMap: files behind `..data`, which is swapped.
struct ConfigMap {
    folder: PathBuf,
    versions: usize,
}

impl ConfigMap {
    fn new(folder: PathBuf, text: &str) -> Result<ConfigMap, String> {
        let mut map = ConfigMap { folder, versions: 0 };
        map.swap(text)?;
        let failed = |e| format!("{}: {e}", map.folder.display());
        symlink("..data/config.conf", map.file()).map_err(failed)?;
        Ok(map)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("config.conf")
    }

    fn swap(&mut self, text: &str) -> Result<(), String> {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        let new = self.folder.join(&version);
        let linked = self.folder.join("..data_tmp");
        std::fs::create_dir(&new)
            .and_then(|()| std::fs::write(new.join("config.conf"), text))
            .and_then(|()| symlink(&version, &linked))
            .and_then(|()| std::fs::rename(&linked, self.folder.join("..data")))
            .map_err(|e| format!("{}: {e}", new.display()))
    }
}

fn configuration(lines: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: nftables\nmetricsBindAddress: {METRICS}\nhealthzBindAddress: 127.0.0.1:10256\n{lines}\n"
    )
}

const BEFORE: &str = "clusterCIDR: 10.244.0.0/16\nnodePortAddresses: [172.18.1.2/32]";
const OTHER_PORTS: &str =
    "clusterCIDR: 10.244.0.0/16\nnodePortAddresses: [127.0.0.0/8]\nlogging: {verbosity: 4}";

fn config_map(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let folder = setting.scratch.folder("config-map")?;
    let mut map = ConfigMap::new(folder, &configuration(BEFORE))?;
    let file = format!("--config={}", map.file().display());
    setting.start_proxy_with(&[&file])?;
    let open =
        Probe::parse("tcp from outside to 172.18.1.2:30080 reaches web-1 web-2 web-3 as any")?;
    setting.wait_for(&open)?;
    let verdict = swaps(&mut setting, &mut map, &open);
    told(&setting, verdict)
}

fn swaps(setting: &mut Setting, map: &mut ConfigMap, open: &Probe) -> Verdict {
    let shows = |setting: &Setting, words: &str| {
        eventually(|| match ask(setting, "/configz") {
            Err(why) => Some(why),
            Ok(page) => (!page.body.contains(words)).then(|| format!("no {words}: {}", page.body)),
        })
    };
    map.swap(&configuration(OTHER_PORTS))?;
    shows(setting, "\"verbosity\":4")?;
    let shut = Probe::parse("tcp from outside to 172.18.1.2:30080 is refused")?;
    setting.wait_for(&shut)?;
    map.swap(&configuration("clusterCIDR: no/cidr"))?;
    let said = |setting: &Setting| setting.proxy.as_ref().map(|p| p.process.said());
    eventually(|| {
        let said = said(setting).unwrap_or_default();
        (!said.contains("not taken on")).then_some("the bad file is not spoken of".to_owned())
    })?;
    setting.wait_for(&shut)?;
    map.swap(&configuration(BEFORE))?;
    setting.wait_for(open)?;
    map.swap(&configuration("clusterCIDR: 10.99.0.0/16\nnodePortAddresses: [172.18.1.2/32]"))?;
    let mut proxy = setting.proxy.take().ok_or("it is not running")?;
    let (status, _) = proxy.process.wait(DEADLINE)?;
    let last = proxy.process.last_words(1);
    if status.code() != Some(1) || !last.contains("has changed in clusterCIDR; ending") {
        return Err(format!("{status}: {last}").into());
    }
    Ok(last)
}

fn net_admin_only(bench: &Bench) -> Verdict {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if !Path::new(SETPRIV).exists() {
        return Err(Stop::Skipped("setpriv (util-linux) is not installed".to_owned()));
    }
    let mut setting = bench.examples()?;
    // How many connections are tracked is the first network namespace's to say.
    let init = setting.start(&["--init-only", "--conntrack-max-per-core=0"]);
    let mut init = KubeProxy::start(&setting.lab, &init)?;
    let (status, _) = init.process.wait(DEADLINE)?;
    if !status.success() {
        return Err(format!("--init-only: {status}: {}", init.process.said()).into());
    }
    // The legacy flavour's tool, the only one in the guest, asks for CAP_NET_RAW itself.
    let legacy = matches!(mode(), Mode::IptablesLegacy | Mode::Ipvs);
    let (held, more) = if legacy { ("3000", ",+net_raw") } else { ("1000", "") };
    let bounds = format!("--bounding-set=-all,+net_admin{more}");
    let only = [bounds.as_str(), "--inh-caps=-all", "--no-new-privs"];
    let words: Vec<String> = [SETPRIV].into_iter().chain(only).map(str::to_owned).collect();
    let start = setting.start(&[]);
    let proxy = KubeProxy::start_through(&setting.lab, &words, &start)?;
    let id = proxy.process.id();
    setting.proxy = Some(proxy);
    let verdict = setting.wait_for(&Probe::parse(WEB)?).map_err(Stop::from).and_then(|_| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"));
        let status = status.map_err(|e| e.to_string())?;
        let found = status.lines().find(|line| line.starts_with("CapEff:")).unwrap_or_default();
        // CAP_NET_ADMIN is bit 12, CAP_NET_RAW bit 13.
        if found.split_whitespace().nth(1) == Some(format!("{held:0>16}").as_str()) {
            Ok(found.replace('\t', " "))
        } else {
            Err(format!("it holds more: {held}").into())
        }
    });
    told(&setting, verdict)
}

fn service_manager(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let path = setting.scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
    let words = [
        "/usr/bin/env".to_owned(),
        format!("NOTIFY_SOCKET={}", path.display()),
        "WATCHDOG_USEC=600000".to_owned(),
    ];
    let start = setting.start(&[]);
    setting.proxy = Some(KubeProxy::start_through(&setting.lab, &words, &start)?);
    let verdict = hears(&socket, "READY=1")
        // Ready means programmed: there is nothing to wait for any more.
        .and_then(|()| at_once(&setting))
        .and_then(|()| hears(&socket, "WATCHDOG=1"))
        .and_then(|()| hears(&socket, "WATCHDOG=1"))
        .and_then(|()| setting.stop_proxy(Signal::SIGTERM).map(drop))
        .and_then(|()| hears(&socket, "STOPPING=1"));
    told(&setting, verdict.map(|()| String::new()).map_err(Stop::from))
}

/// Asks `WEB` without any patience.
fn at_once(setting: &Setting) -> Result<(), String> {
    let probe = Probe::parse(WEB)?;
    judge(&probe, &mut || setting.attempt(&probe)).wrong.map_or(Ok(()), Err)
}

/// Waits until the service manager's socket is told this.
fn hears(socket: &UnixDatagram, words: &str) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    let mut buffer = [0; 4096];
    while Instant::now() < end {
        if let Ok(length) = socket.recv(&mut buffer)
            && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == words)
        {
            return Ok(());
        }
    }
    Err(format!("the service manager was never told {words}"))
}

/// What bash offers for lines, by the script that kube-proxy prints.
fn bash_completes(bench: &Bench) -> Verdict {
    const OFFERED: [(&str, &str); 5] = [
        ("kube-proxy tr", "trace"),
        ("kube-proxy trace --prot", "--proto"),
        (
            "kube-proxy trace --manifests=examples pod/default/web",
            "pod/default/web-1 pod/default/web-2 pod/default/web-3",
        ),
        // Bash completes what stands behind the last colon.
        ("kube-proxy trace --manifests examples node svc/default/web:", "http"),
        ("kube-proxy trace --manifests nowhere pod/", ""),
    ];
    const ASK: &str = r#"
        source <("$0" completion bash)
        kube-proxy() { "$BINARY" "$@"; }
        BINARY=$0
        COMP_LINE=$1 COMP_POINT=${#1}
        read -ra COMP_WORDS <<<"$1"
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _kube-proxy_or_names kube-proxy "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        echo "${COMPREPLY[*]}"
    "#;
    if !Path::new("/bin/bash").exists() {
        return Err(Stop::Skipped("bash is not installed".to_owned()));
    }
    for (line, offered) in OFFERED {
        let mut bash = Command::new("/bin/bash");
        bash.arg("-c").arg(ASK).arg(&bench.binary).arg(line);
        let output = bash.current_dir(&bench.root).output();
        let output = output.map_err(|e| format!("bash: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != offered {
            return Err(format!("{line:?}: {offered:?} expected, {said:?} offered").into());
        }
    }
    Ok(format!("{} lines", OFFERED.len()))
}
