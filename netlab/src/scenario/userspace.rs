//! userspace mode, whatever the mode of the run: what becomes of carried connections when the process
//! ends, endpoints that misbehave, ports that are in use, idle UDP flows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::SockRef;

use super::strangers::strangers;
use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::client::{Conversation, Outcome, answer_of, ask_tcp, ask_udp_again};
use crate::load::{PATIENCE, Talks};
use crate::page::fetch;
use crate::probe::Probe;
use crate::proxy;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("userspace-drain-keeps-connections", |bench| play(bench, &[LONG], drain)),
    scenario("userspace-drain-ends", |bench| play(bench, &[SHORT], drain_ends)),
    scenario("userspace-endpoint-refuses", |bench| play(bench, &[], refuses)),
    scenario("userspace-endpoint-hangs", |bench| play(bench, &[], hangs)),
    scenario("userspace-endpoint-resets", |bench| play(bench, &[], resets)),
    scenario("userspace-endpoint-answers-nobody", |bench| play(bench, &[], answers_nobody)),
    scenario("userspace-endpoint-is-told-its-client", |bench| play(bench, &[], told_client)),
    scenario("userspace-ports-in-use", |bench| play(bench, &[RANGE], ports)),
    scenario("userspace-ports-are-for-led-connections", |bench| play(bench, &[], strangers)),
    scenario("userspace-udp-timeout", |bench| play(bench, &[UDP_TIMEOUT], udp_timeout)),
];

const LONG: &str = "--userspace-drain-timeout=60s";
const SHORT: &str = "--userspace-drain-timeout=1s";
const RANGE: &str = "--proxy-port-range=41000-41002";
const UDP_TIMEOUT: &str = "--udp-timeout=1s";
const METRICS: &str = "127.0.0.1:10249";
pub(super) const WEB: &str = "10.96.0.10:80";
/// The Service whose endpoints misbehave, and their port.
const FAULTY: &str = "10.96.1.7:80";
const ODD_PORT: u16 = 9001;

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().expect("addresses here are well-formed")
}

/// Starts the proxy in userspace mode and waits until it serves.
pub(super) fn play(bench: &Bench, flags: &[&str], act: fn(&mut Setting) -> Verdict) -> Verdict {
    let mut setting = bench.examples()?;
    if flags.contains(&RANGE) {
        // Somebody has one of the three ports at every address.
        let taken = setting.lab.node.run(|| TcpListener::bind("0.0.0.0:41001"));
        let _taken = taken.map_err(|e| format!("port 41001: {e}"))?;
        return begin(&mut setting, flags, act);
    }
    begin(&mut setting, flags, act)
}

fn begin(setting: &mut Setting, flags: &[&str], act: fn(&mut Setting) -> Verdict) -> Verdict {
    let metrics = format!("--metrics-bind-address={METRICS}");
    let mut all = vec!["--proxy-mode=userspace", metrics.as_str()];
    all.extend(flags);
    for object in faulty(&["10.244.1.11"]) {
        setting.manifests.put(object);
    }
    setting.write()?;
    setting.start_proxy_with(&all)?;
    let verdict = act(setting);
    told(setting, verdict)
}

/// A Service whose endpoints' port no pod of the examples listens at.
fn faulty(endpoints: &[&str]) -> [Value; 2] {
    let (address, _) = FAULTY.split_once(':').expect("an address and a port");
    let endpoint = |ip: &&str| {
        json!({"addresses": [ip], "nodeName": "node-1",
            "conditions": {"ready": true, "serving": true, "terminating": false}})
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "faulty", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "odd", "protocol": "TCP", "port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "faulty", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "faulty"}},
        "addressType": "IPv4",
        "ports": [{"name": "odd", "protocol": "TCP", "port": ODD_PORT}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    });
    [service, slice]
}

pub(super) fn wait_for_web(setting: &mut Setting) -> Result<(), String> {
    let web = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as any";
    setting.wait_for(&Probe::parse(web)?).map(|_| ())
}

/// A figure of a Service port.
pub(super) fn figure(setting: &Setting, name: &str, service: &str) -> Result<u64, String> {
    let page = setting.lab.node.run(|| fetch(at(METRICS), "/metrics"))?;
    let line = format!("kubeproxy_userspace_{name}{{protocol=\"TCP\",service=\"{service}\"}}");
    let figure = page.figure(&line).ok_or(format!("no {line}"))?;
    figure.parse().map_err(|_| format!("{line} is {figure}"))
}

/// Waits until nothing is open for a Service port.
pub(super) fn all_closed(setting: &Setting, service: &str) -> Result<(), Stop> {
    eventually(|| match figure(setting, "connections_open", service) {
        Ok(0) => None,
        Ok(open) => Some(format!("{open} connections of {service} are still open")),
        Err(why) => Some(why),
    })
}

/// How many descriptors the proxy has.
pub(super) fn descriptors(setting: &Setting) -> Result<usize, String> {
    let proxy = setting.proxy.as_ref().ok_or("kube-proxy is not running")?;
    let folder = format!("/proc/{}/fd", proxy.process.id());
    std::fs::read_dir(&folder).map(Iterator::count).map_err(|e| format!("{folder}: {e}"))
}

/// The same at the start, once it is a number that stays: health check node ports are listened on after
/// the sync that already serves clients.
pub(super) fn descriptors_at_start(setting: &Setting) -> Result<usize, String> {
    let mut before = descriptors(setting)?;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = descriptors(setting)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// Waits until it has no more descriptors than it had.
pub(super) fn none_leaked(setting: &Setting, before: usize) -> Result<(), Stop> {
    eventually(|| match descriptors(setting) {
        Ok(now) if now <= before => None,
        Ok(now) => Some(format!("{now} descriptors, {before} at the start")),
        Err(why) => Some(why),
    })
}

fn drain(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let outside = setting.lab.outside.clone();
    let talks =
        [Talks::start(&pod, at(WEB), 6)?, Talks::start(&outside, at("172.18.1.2:30080"), 6)?];
    let proxy = setting.proxy.as_ref().ok_or("kube-proxy is not running")?;
    proxy.process.signal(Signal::SIGTERM)?;
    eventually(|| match pod.run(|| ask_tcp(None, at(WEB), PATIENCE)) {
        Outcome::Refused => None,
        other => Some(format!("a new connection while it drains: {other:?}")),
    })?;
    if setting.proxy.as_mut().and_then(|proxy| proxy.process.ended()).is_some() {
        return Err("it ended although connections were open".into());
    }
    let kept: Vec<_> = talks.into_iter().flat_map(Talks::stop).collect();
    if let Some(Err(why)) = kept.iter().find(|talk| talk.is_err()) {
        return Err(format!("a connection broke while it drained: {why}").into());
    }
    // They have ended now, and long before its time is over so has the process.
    let proxy = setting.proxy.as_mut().ok_or("kube-proxy is not running")?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    setting.proxy = None;
    if !status.success() {
        return Err(format!("it ended with {status}").into());
    }
    setting.start_proxy_with(&["--proxy-mode=userspace"])?;
    wait_for_web(setting)?;
    Ok(format!("{} connections went on until their own end", kept.len()))
}

fn drain_ends(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let open = || Conversation::open(None, at(WEB), PATIENCE);
    let mut talk = pod.run(open).map_err(|outcome| format!("no talk: {outcome:?}"))?;
    talk.say("hello")?;
    let proxy = setting.proxy.as_mut().ok_or("kube-proxy is not running")?;
    proxy.process.signal(Signal::SIGTERM)?;
    let (status, _) = proxy.process.wait(crate::setting::DEADLINE)?;
    match (status.success(), talk.say("still there?")) {
        (true, Err(_)) => Ok(String::new()),
        (_, said) => Err(format!("it ended with {status}; the open connection: {said:?}").into()),
    }
}

/// Asks the Service whose endpoints misbehave.
fn ask_faulty(setting: &Setting) -> Result<Outcome, Stop> {
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?;
    Ok(pod.run(|| ask_tcp(None, at(FAULTY), PATIENCE)))
}

/// A listener at the odd port of a pod.
fn listen(setting: &Setting, pod: &str) -> Result<TcpListener, String> {
    let address = setting.lab.pod(pod).ok_or(format!("no {pod}"))?.spec.addresses.clone();
    let own = address.into_iter().find(|a| a.is_ipv4()).ok_or("no IPv4 address")?;
    let place = setting.lab.place(pod).ok_or(format!("no {pod}"))?;
    let bound = place.run(|| TcpListener::bind((own, ODD_PORT)));
    bound.map_err(|e| format!("{pod}: {e}"))
}

/// Serves connections of a listener, one after the other, until it is shut down.
fn serve(listener: &TcpListener, each: fn(TcpStream)) -> Result<(), String> {
    let own = listener.try_clone().map_err(|e| e.to_string())?;
    std::thread::spawn(move || own.incoming().map_while(Result::ok).for_each(each));
    Ok(())
}

/// Ends what `serve` began: nobody can connect from now on.
fn close(listener: &TcpListener) {
    let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}

fn greet(mut stream: TcpStream) {
    if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
        let line = format!("pod=odd peer={peer} local={local} said=\n");
        let _ = stream.write_all(line.as_bytes());
    }
}

/// Nobody listens: the client is refused at once. As soon as one listens, it is asked.
fn refuses(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let before = descriptors_at_start(setting)?;
    for _ in 0..20 {
        match ask_faulty(setting)? {
            Outcome::Refused => {}
            other => return Err(format!("expected a refusal, got {other:?}").into()),
        }
    }
    let listener = listen(setting, "web-1")?;
    serve(&listener, greet)?;
    let answer = ask_faulty(setting)?;
    close(&listener);
    if !matches!(&answer, Outcome::Answered(answer) if answer.pod == "odd") {
        return Err(format!("somebody listens now, and the answer is {answer:?}").into());
    }
    all_closed(setting, "default/faulty:odd")?;
    let failed = figure(setting, "failed_dials_total", "default/faulty:odd")?;
    let unserved = figure(setting, "unserved_total", "default/faulty:odd")?;
    if (failed, unserved) != (20, 20) {
        return Err(format!("{failed} failed dials and {unserved} unserved of 20").into());
    }
    none_leaked(setting, before).map(|()| String::new())
}

/// Of two endpoints one says nothing, not even no: all clients get to the other. Those who give up
/// before leave nothing behind.
fn hangs(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let before = descriptors_at_start(setting)?;
    let listener = listen(setting, "web-2")?;
    serve(&listener, greet)?;
    mute(setting, "web-1")?;
    setting.manifests.put(faulty(&["10.244.1.11"])[1].clone());
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let gave_up = pod.run(|| {
        let ask = |_| ask_tcp(None, at(FAULTY), Duration::from_millis(100));
        (0..10).map(ask).filter(|outcome| *outcome == Outcome::Silence).count()
    });
    setting.manifests.put(faulty(&["10.244.1.11", "10.244.1.12"])[1].clone());
    setting.write()?;
    eventually(|| match ask_faulty(setting) {
        Ok(Outcome::Answered(_)) => None,
        other => Some(format!("with one endpoint that answers: {other:?}")),
    })?;
    for _ in 0..40 {
        match ask_faulty(setting)? {
            Outcome::Answered(_) => {}
            other => return Err(format!("one endpoint is silent: {other:?}").into()),
        }
    }
    close(&listener);
    all_closed(setting, "default/faulty:odd")?;
    none_leaked(setting, before)?;
    let retries = figure(setting, "retries_total", "default/faulty:odd")?;
    Ok(format!(
        "{gave_up} of 10 gave up while it was alone, then 40 of 40 answered, {retries} retries"
    ))
}

/// Drops what comes to the odd port of a pod.
fn mute(setting: &Setting, pod: &str) -> Result<(), Stop> {
    let (program, rule) = match proxy::mode() {
        proxy::Mode::UserspaceIptables => {
            ("iptables-legacy", format!("-A INPUT -p tcp --dport {ODD_PORT} -j DROP"))
        }
        _ => (
            "nft",
            format!(
                "add table ip mute; \
                 add chain ip mute in {{ type filter hook input priority 0; }}; \
                 add rule ip mute in tcp dport {ODD_PORT} drop"
            ),
        ),
    };
    let place = setting.lab.place(pod).ok_or(format!("no {pod}"))?;
    match place.run(|| Command::new(program).args(rule.split_whitespace()).output()) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        Err(why) => Err(Stop::Skipped(format!("{program}: {why}"))),
    }
}

/// A reset in the middle of an answer is a reset for the client, not an end.
fn resets(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let before = descriptors_at_start(setting)?;
    let listener = listen(setting, "web-1")?;
    serve(&listener, |mut stream| {
        let _ = stream.write_all(&[b'x'; 1000]);
        // The client says when it has heard the beginning.
        let _ = stream.read(&mut [0]);
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let ask = || -> std::io::Result<(usize, std::io::Result<usize>)> {
        let mut stream = TcpStream::connect(at(FAULTY))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut heard = 0;
        while heard < 1000 {
            heard += stream.read(&mut [0; 1000])?;
        }
        stream.write_all(b"x")?;
        Ok((heard, stream.read(&mut [0; 1000])))
    };
    for _ in 0..20 {
        match pod.run(ask) {
            Ok((1000, Err(e))) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => return Err(format!("expected 1000 bytes and a reset, got {other:?}").into()),
        }
    }
    close(&listener);
    all_closed(setting, "default/faulty:odd")?;
    none_leaked(setting, before).map(|()| String::new())
}

/// The endpoint answers when the client has left.
fn answers_nobody(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let before = descriptors_at_start(setting)?;
    let listener = listen(setting, "web-1")?;
    serve(&listener, |mut stream| {
        // Until the client has ended its side, or broken it off.
        let _ = stream.read(&mut [0]);
        for _ in 0..10 {
            let _ = stream.write_all(&[b'x'; 10_000]);
            std::thread::sleep(Duration::from_millis(5));
        }
    })?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let leave = || -> std::io::Result<()> {
        for number in 0..20 {
            let stream = TcpStream::connect(at(FAULTY))?;
            if number % 2 == 0 {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
        }
        Ok(())
    };
    pod.run(leave).map_err(|e| format!("the client: {e}"))?;
    all_closed(setting, "default/faulty:odd")?;
    close(&listener);
    wait_for_web(setting)?;
    none_leaked(setting, before).map(|()| String::new())
}

/// What a header of the PROXY protocol says: who asks, and whom (haproxy.org, `proxy-protocol.txt`,
/// version 2, TCP over IPv4).
fn header(stream: &mut TcpStream) -> std::io::Result<Option<[SocketAddr; 2]>> {
    const START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    let mut bytes = [0; 28];
    stream.read_exact(&mut bytes)?;
    let socket = |ip: usize, port: usize| {
        let ip: [u8; 4] = std::array::from_fn(|n| bytes[ip + n]);
        SocketAddr::from((ip, u16::from_be_bytes([bytes[port], bytes[port + 1]])))
    };
    Ok(bytes.starts_with(START).then(|| [socket(16, 24), socket(20, 26)]))
}

/// By its Service's annotation an endpoint is told who asks, and whom; without it nothing is put before
/// what the client says.
fn told_client(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let listener = listen(setting, "web-1")?;
    serve(&listener, |mut stream| {
        if let Ok(Some([peer, local])) = header(&mut stream) {
            let line = format!("pod=told peer={peer} local={local} said=\n");
            let _ = stream.write_all(line.as_bytes());
        }
    })?;
    let outside_ip = "198.51.100.78";
    let [mut service, _] = faulty(&[]);
    service["spec"]["externalIPs"] = json!([outside_ip]);
    service["metadata"]["annotations"] = json!({"kube-proxy.io/proxy-protocol": "v2"});
    setting.manifests.put(service.clone());
    setting.write()?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let outside = setting.lab.outside.clone();
    let places = [(&pod, at(FAULTY)), (&outside, at(&format!("{outside_ip}:80")))];
    for (from, to) in places {
        eventually(|| match from.run(|| ask_tcp(None, to, PATIENCE)) {
            Outcome::Answered(a) if a.pod == "told" && a.peer == a.own && a.local == to => None,
            other => Some(format!("asked {to}, and the endpoint was told {other:?}")),
        })?;
    }
    close(&listener);
    // Without the annotation the client's own words come first.
    service["metadata"]["annotations"] = json!({});
    setting.manifests.put(service);
    setting.write()?;
    let listener = listen(setting, "web-1")?;
    serve(&listener, |mut stream| {
        let mut word = [0; 5];
        let heard = stream.read_exact(&mut word).is_ok() && word == *b"hello";
        let _ = stream.write_all(if heard { b"y" } else { b"n" });
    })?;
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(at(FAULTY))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"hello")?;
        let mut answer = [0];
        stream.read_exact(&mut answer).map(|()| answer[0])
    };
    let plain = eventually(|| match pod.run(ask) {
        Ok(b'y') => None,
        other => Some(format!("without the annotation: {other:?}")),
    });
    close(&listener);
    plain.map(|()| String::new())
}

/// Two ports are to be had: two Service ports of a protocol are served, each other one gets a Notice.
fn ports(setting: &mut Setting) -> Verdict {
    eventually(|| {
        let said = setting.proxy.as_ref().map(|p| p.process.said()).unwrap_or_default();
        let told = said.contains("no local port for") && said.contains("--proxy-port-range");
        (!told).then(|| "no Notice of a port that could not be had".to_owned())
    })?;
    let pod = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let all = ["10.96.0.10:80", "10.96.0.11:80", "10.96.0.17:80", "10.96.0.21:80", FAULTY];
    let ask = |to: &&str| pod.run(|| ask_tcp(None, at(to), PATIENCE));
    let refused = all.iter().filter(|to| ask(to) == Outcome::Refused).count();
    if refused < all.len() - 2 {
        return Err(format!("{refused} of {} were refused with two ports", all.len()).into());
    }
    // The others go on: UDP has ports of its own.
    let dns = "udp from web-1 to 10.96.0.53:53 reaches dns-1 dns-2 as any";
    setting.wait_for(&Probe::parse(dns)?)?;
    if setting.proxy.as_mut().and_then(|proxy| proxy.process.ended()).is_some() {
        return Err("it ended".into());
    }
    Ok(format!("{refused} of {} refused", all.len()))
}

/// A flow keeps its socket towards the pod while it is used, and gets another after a rest.
fn udp_timeout(setting: &mut Setting) -> Verdict {
    let dns = "udp from web-1 to 10.96.0.53:53 reaches dns-1 dns-2 as any";
    setting.wait_for(&Probe::parse(dns)?)?;
    let pod = setting.lab.place("web-1").ok_or("no web-1")?.clone();
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at("10.96.0.53:53"))?;
        Ok(socket)
    };
    let socket = pod.run(open).map_err(|e| format!("a UDP socket: {e}"))?;
    let seen = || -> Result<SocketAddr, String> {
        let (line, own) =
            ask_udp_again(&socket, PATIENCE).map_err(|e| format!("no answer: {e}"))?;
        answer_of(&line, own).map(|answer| answer.peer).ok_or(line)
    };
    eventually(|| match (seen(), seen()) {
        (Ok(first), Ok(second)) if first == second => None,
        other => Some(format!("asked twice, the pod saw {other:?}")),
    })?;
    let before = seen()?;
    std::thread::sleep(Duration::from_millis(2500));
    let after = seen()?;
    if before == after {
        return Err(format!("after a rest the flow is still {before}").into());
    }
    Ok(String::new())
}
