//! Starts that cannot succeed: each ends with exit code 1 and a last line that says what, where and
//! what to do, and nothing is in the kernel.

use std::time::Duration;

use super::served::{kubeconfig, listener};
use super::{Bench, Scenario, Verdict, beside, scenario};
use crate::apiserver::store::Resource;
use crate::apiserver::{ApiServer, Manners, Shared, tls};
use crate::proxy::{Input, KubeProxy, Start};
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("no-kubeconfig-no-start", no_kubeconfig),
    scenario("no-manifests-no-start", no_manifests),
    scenario("refused-tls-no-start", refused_tls),
    scenario("refused-token-no-start", refused_token),
    beside("no-node-no-start", no_node),
];

/// Starts it and sees that it ends as it must; the line must have all these words.
fn refuses(
    setting: &mut Setting,
    input: Input,
    (patience, words): (Duration, &[&str]),
) -> Result<String, String> {
    let start = Start { input, ..setting.start(&[]) };
    let before = super::modes::written(setting)?;
    let mut proxy = KubeProxy::start(&setting.lab, &start)?;
    let (status, _) = proxy.process.wait(patience)?;
    let said = proxy.process.said();
    if status.code() != Some(1) {
        return Err(format!("it ended with {status}, not 1; it said: {said}"));
    }
    // Lines of the log have a time and a level in front; what it ends with has its name.
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("kube-proxy: ")).collect();
    let [line] = &ours[..] else { return Err(format!("not one line: {said:?}")) };
    if let Some(missing) = words.iter().find(|word| !line.contains(**word)) {
        return Err(format!("nothing is said of {missing:?}: {line}"));
    }
    if said.lines().last() != Some(line) || said.contains("trying again") {
        return Err(format!("it is not said once, at the end: {said}"));
    }
    let after = super::modes::written(setting)?;
    if after != before {
        return Err(format!("it wrote something: before {before:#?}, after {after:#?}"));
    }
    Ok((*line).to_owned())
}

/// How long a start may take that can know at once that it is none.
const AT_ONCE: Duration = Duration::from_secs(10);

fn no_kubeconfig(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let folder = setting.scratch.path().to_owned();
    let broken = folder.join("broken");
    std::fs::write(&broken, "clusters: {[").map_err(|e| e.to_string())?;
    let empty = folder.join("empty");
    std::fs::write(&empty, "").map_err(|e| e.to_string())?;
    for file in [&folder.join("absent"), &folder, &broken, &empty] {
        let name = file.display().to_string();
        let words = ["--kubeconfig", name.as_str()];
        refuses(&mut setting, Input::Kubeconfig(file.clone()), (AT_ONCE, &words))?;
    }
    Ok(String::new())
}

fn no_manifests(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let absent = setting.scratch.path().join("absent");
    let name = absent.display().to_string();
    let words = ["--manifests", name.as_str()];
    Ok(refuses(&mut setting, Input::Manifests(absent), (AT_ONCE, &words))?)
}

fn refused_tls(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let shared = Shared::new(Manners::default());
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start_tls(listener(&setting, 6443)?, shared.clone())?;
    let file = kubeconfig(&setting, (&server.url(), tls::STRANGER_CA, ""))?;
    let url = server.url();
    let words = ["API server", url.as_str(), "certificate"];
    let line = refuses(&mut setting, file, (AT_ONCE, &words))?;
    match shared.requests().first() {
        None => Ok(line),
        Some(request) => Err(format!("it asked a server it cannot trust: {request:?}").into()),
    }
}

fn refused_token(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let token = Some("netlab-token".to_owned());
    let shared = Shared::new(Manners { token, ..Manners::default() });
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start_tls(listener(&setting, 6443)?, shared)?;
    let file = kubeconfig(&setting, (&server.url(), tls::CA, "another-token"))?;
    let url = server.url();
    let words = ["API server", url.as_str(), "401", "credentials"];
    let line = refuses(&mut setting, file, (AT_ONCE, &words))?;
    if line.contains("another-token") {
        return Err(format!("it tells its token: {line}").into());
    }
    Ok(line)
}

/// The node's own object is waited for, half a minute.
fn no_node(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let shared = Shared::new(Manners::default());
    shared.store.set_all(setting.manifests.objects())?;
    shared.store.delete(Resource::Nodes, "", crate::plan::NODE);
    let server = ApiServer::start(listener(&setting, 6443)?, shared)?;
    let patience =
        (Duration::from_secs(40), &["Node", crate::plan::NODE, "--hostname-override"][..]);
    Ok(refuses(&mut setting, Input::Server(server.url()), patience)?)
}
