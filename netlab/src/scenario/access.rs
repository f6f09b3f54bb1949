//! The ways to an API server that a kubeconfig can name: tokens in files that are replaced, programs
//! that give credentials, client certificates, names of the server, proxies. Each is proved by
//! packets: what the server tells, before and after credentials change, becomes rules.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Bench, Scenario, Stop, Verdict, eventually, scenario, told};
use crate::apiserver::tls::{self, Clients};
use crate::apiserver::{ApiServer, Manners, Shared};
use crate::connect_proxy::ConnectProxy;
use crate::plan;
use crate::probe::Probe;
use crate::process::{Guarded, Rights};
use crate::proxy::{Input, KubeProxy, Start};
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("access-token-file-rotates", token_file),
    scenario("access-exec-plugin-token", exec_token),
    scenario("access-exec-plugin-certificate", exec_certificate),
    scenario("access-client-certificate-rotates", certificate),
    scenario("access-tls-server-name", server_name),
    scenario("access-insecure-skip-tls-verify", insecure),
    scenario("access-proxy-url", proxy_url),
    scenario("access-proxy-of-the-environment", proxy_of_environment),
];

// A pod more, not one less: that one is not asked for a while can be chance.
const BEFORE: &str = "tcp from dns-1 to 10.96.0.21:80 reaches solo as itself";
const AFTER: &str = "tcp from dns-1 to 10.96.0.21:80 reaches solo web-1 as itself";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The examples in an API server that speaks TLS.
struct Access {
    setting: Setting,
    shared: Arc<Shared>,
    server: ApiServer,
}

fn play(
    bench: &Bench,
    (at, manners): (IpAddr, Manners),
    act: fn(&mut Access) -> Verdict,
) -> Verdict {
    let setting = bench.examples()?;
    let shared = Shared::new(manners);
    shared.store.set_all(setting.manifests.objects())?;
    let bind = || TcpListener::bind((at, 6443));
    let listener = setting.lab.node.run(bind).map_err(|e| format!("API server: {e}"))?;
    let server = ApiServer::start_tls(listener, shared.clone())?;
    let mut access = Access { setting, shared, server };
    let verdict = act(&mut access);
    told(&access.setting, verdict)
}

fn with_token(token: &str) -> Manners {
    Manners { token: Some(token.to_owned()), ..Manners::default() }
}

fn with_certificates() -> Manners {
    Manners { clients: Clients::WithCertificate, ..Manners::default() }
}

impl Access {
    fn file(&self, name: &str) -> PathBuf {
        self.setting.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.file(name);
        // By a rename, as a mounted Secret changes: never half of it is seen.
        let new = path.with_extension("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map(|()| path.clone()).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// A kubeconfig that trusts the server, with this user.
    fn kubeconfig(&self, user: Value) -> Result<Value, String> {
        let ca = self.write("ca.pem", tls::CA)?;
        let mut config = tls::kubeconfig(&self.server.url(), &ca.display().to_string(), "");
        config["users"][0]["user"] = user;
        Ok(config)
    }

    /// Starts kube-proxy with a kubeconfig and further variables in its environment.
    fn start(&mut self, kubeconfig: &Value, environment: &[String]) -> Result<(), String> {
        let file = self.write("kubeconfig", &kubeconfig.to_string())?;
        let start = Start { input: Input::Kubeconfig(file), ..self.setting.start(&[]) };
        let mut words = environment.to_vec();
        words.push(start.binary.display().to_string());
        words.extend(start.arguments());
        let program = (Path::new("/usr/bin/env"), &words[..]);
        let process = Guarded::start(&self.setting.lab.node, Rights::Ours, program, &start.log)?;
        self.setting.proxy = Some(KubeProxy { process });
        Ok(())
    }

    fn wait_for(&mut self, line: &str) -> Result<(), Stop> {
        Ok(self.setting.wait_for(&Probe::parse(line)?).map(drop)?)
    }

    /// Lists came through; now a change has to come through watches that begin anew.
    fn follows(&mut self) -> Result<(), Stop> {
        self.wait_for(BEFORE)?;
        let before = self.shared.requests().len();
        self.shared.faults.order(|orders| orders.cut += 1);
        let asked = || self.shared.requests().len() > before;
        eventually(|| (!asked()).then(|| "no watch begins anew".to_owned()))?;
        let slice = self.setting.manifests.get("EndpointSlice", "mirror-ipv4").ok_or("no slice")?;
        let mut slice = slice.clone();
        let pods = slice["endpoints"].as_array_mut().ok_or("no endpoints")?;
        pods.push(endpoint("web-1", "10.244.1.11", "node-1"));
        self.shared.store.set(&slice)?;
        self.wait_for(AFTER)
    }
}

/// The token is another one, in the file and at the server. The file ends with a line's end, as
/// `kubectl create token > file` writes it.
fn token_file(bench: &Bench) -> Verdict {
    play(bench, (LOOPBACK, with_token("first")), |access| {
        let file = access.write("token", "first\n")?;
        let config = access.kubeconfig(json!({"tokenFile": file}))?;
        access.start(&config, &[])?;
        access.wait_for(BEFORE)?;
        access.write("token", "second\n")?;
        access.shared.expect_token("second");
        access.follows()?;
        Ok(String::new())
    })
}

/// Writes a program that gives what is in a file, and counts how often it was asked.
fn plugin(access: &Access, status: &Value) -> Result<Value, String> {
    credentials(access, status)?;
    let (given, counted) = (access.file("credentials"), access.file("runs"));
    let text = format!(
        "#!/bin/sh\ncase \"$KUBERNETES_EXEC_INFO\" in *ExecCredential*) ;; *) exit 3 ;; esac\n\
         echo run >> {}\nexec cat {}\n",
        counted.display(),
        given.display()
    );
    let program = access.write("plugin", &text)?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).map_err(|e| e.to_string())?;
    Ok(json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": program,
        "interactiveMode": "Never",
    }}))
}

fn credentials(access: &Access, status: &Value) -> Result<(), String> {
    let answer = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": status,
    });
    access.write("credentials", &answer.to_string()).map(drop)
}

fn runs(access: &Access) -> usize {
    std::fs::read_to_string(access.file("runs")).unwrap_or_default().lines().count()
}

/// A program's token that the server stops to believe before it ends: the program is asked again.
fn exec_token(bench: &Bench) -> Verdict {
    play(bench, (LOOPBACK, with_token("first")), |access| {
        let user = plugin(access, &json!({"token": "first"}))?;
        let config = access.kubeconfig(user)?;
        access.start(&config, &[])?;
        access.wait_for(BEFORE)?;
        let first = runs(access);
        credentials(access, &json!({"token": "second"}))?;
        access.shared.expect_token("second");
        access.follows()?;
        let again = runs(access) - first;
        if first == 0 || again == 0 || again > 20 {
            return Err(format!("the program ran {first} times, then {again} times").into());
        }
        Ok(format!("the program ran {first} times at the start, {again} after"))
    })
}

fn exec_certificate(bench: &Bench) -> Verdict {
    play(bench, (LOOPBACK, with_certificates()), |access| {
        let (certificate, key) = tls::CLIENT;
        let given = json!({"clientCertificateData": certificate, "clientKeyData": key});
        let user = plugin(access, &given)?;
        let config = access.kubeconfig(user)?;
        access.start(&config, &[])?;
        access.follows()?;
        Ok(String::new())
    })
}

/// Certificate and key in files that are replaced while everything runs: here by the same, with
/// another text before them, which is enough to be read anew.
fn certificate(bench: &Bench) -> Verdict {
    play(bench, (LOOPBACK, with_certificates()), |access| {
        let (certificate, key) = tls::CLIENT;
        let files = (access.write("client.pem", certificate)?, access.write("client.key", key)?);
        let user = json!({"client-certificate": files.0, "client-key": files.1});
        let config = access.kubeconfig(user)?;
        access.start(&config, &[])?;
        access.wait_for(BEFORE)?;
        access.write("client.pem", &format!("replaced\n{certificate}"))?;
        std::thread::sleep(std::time::Duration::from_secs(6));
        access.follows()?;
        Ok(String::new())
    })
}

fn node_address() -> IpAddr {
    plan::ip(plan::NODE_NET.own[0])
}

/// The server's certificate is for localhost; it is reached at another address.
fn server_name(bench: &Bench) -> Verdict {
    play(bench, (node_address(), Manners::default()), |access| {
        let mut config = access.kubeconfig(json!({}))?;
        access.start(&config, &[])?;
        let mut strict = access.setting.proxy.take().ok_or("it is not running")?;
        let (status, _) = strict.process.wait(crate::setting::DEADLINE)?;
        if status.code() != Some(1) || !strict.process.said().contains("certificate") {
            let said = strict.process.said();
            return Err(format!("a certificate for another name: {status}: {said}").into());
        }
        config["clusters"][0]["cluster"]["tls-server-name"] = "localhost".into();
        access.start(&config, &[])?;
        access.follows()?;
        Ok(String::new())
    })
}

fn insecure(bench: &Bench) -> Verdict {
    play(bench, (node_address(), Manners::default()), |access| {
        let mut config = access.kubeconfig(json!({}))?;
        let url = access.server.url();
        config["clusters"][0]["cluster"] = json!({"server": url, "insecure-skip-tls-verify": true});
        access.start(&config, &[])?;
        access.follows()?;
        Ok(String::new())
    })
}

/// A kubeconfig for the server at the node's address.
fn distant(access: &Access) -> Result<Value, String> {
    let mut config = access.kubeconfig(json!({}))?;
    config["clusters"][0]["cluster"]["tls-server-name"] = "localhost".into();
    Ok(config)
}

fn went_through(access: &mut Access, proxy: &ConnectProxy) -> Verdict {
    access.follows()?;
    let asked = proxy.asked();
    let line = format!("CONNECT {} HTTP/1.1", access.server.address());
    if asked.is_empty() || asked.iter().any(|a| *a != line) {
        return Err(format!("the proxy was asked for {asked:?}, not for {line:?}").into());
    }
    Ok(format!("{} tunnels", asked.len()))
}

fn proxy_url(bench: &Bench) -> Verdict {
    play(bench, (node_address(), Manners::default()), |access| {
        let proxy = ConnectProxy::start(&access.setting.lab.node, "127.0.0.1:3128")?;
        let mut config = distant(access)?;
        let url = format!("http://{}", proxy.address());
        config["clusters"][0]["cluster"]["proxy-url"] = url.into();
        access.start(&config, &["HTTPS_PROXY=http://127.0.0.1:9".to_owned()])?;
        went_through(access, &proxy)
    })
}

/// `HTTPS_PROXY` is gone through, unless `NO_PROXY` names the server.
fn proxy_of_environment(bench: &Bench) -> Verdict {
    play(bench, (node_address(), Manners::default()), |access| {
        let proxy = ConnectProxy::start(&access.setting.lab.node, "127.0.0.1:3128")?;
        let config = distant(access)?;
        let variable = format!("HTTPS_PROXY=http://{}", proxy.address());
        let spared = "NO_PROXY=example.org,172.18.0.0/16".to_owned();
        access.start(&config, &[variable.clone(), spared])?;
        access.wait_for(BEFORE)?;
        if !proxy.asked().is_empty() {
            return Err(format!("NO_PROXY, and it was asked for {:?}", proxy.asked()).into());
        }
        access.setting.stop_proxy(nix::sys::signal::Signal::SIGTERM)?;
        access.start(&config, &[variable])?;
        went_through(access, &proxy)
    })
}
