//! The objects, read once: from a dump, a folder of manifests or the API server.
//! What cannot be read is an error that says what to do. Tests: `netlab`.

use std::sync::Arc;

use super::progress::Progress;
use crate::api::manifests::Manifests;
use crate::api::pods;
use crate::cli::ask::{Asked, Command, Names, Objects, Place};
use crate::config::Source;
use crate::model::{Event, Pod};

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) events: Vec<Event>,
    pub(super) pods: Vec<Pod>,
    /// Why pods are not known, where they are not.
    pub(super) podless: Option<String>,
}

impl Known {
    /// What a dump has. One without pods was made by somebody who could not list them, or not asked to.
    pub(super) fn of_dump(events: Vec<Event>, pods: Vec<Pod>) -> Known {
        let podless = pods.is_empty().then(|| "the dump names no pods".to_owned());
        Known { events, pods, podless }
    }
}

/// Reads the source that flags name, for the node of this name; else what a dump has stays. Pods only
/// where they can be asked for by name, or are to be kept: there may be many.
pub(super) fn read(
    asked: &Asked,
    (known, node): (Known, &Arc<str>),
    progress: &mut Progress,
) -> Result<Known, String> {
    let by_name =
        !matches!(asked.command, Command::Check { .. } | Command::Names { of: Names::Changes });
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    match (&asked.settings.source, asked.objects) {
        (_, Objects::Unnamed) if matches!(asked.node, Place::Dump(_)) => Ok(known),
        (_, Objects::Unnamed) if !in_pod => {
            let why =
                "pods are known from --manifests DIR, --kubeconfig FILE or a dump that has them";
            Ok(Known { podless: Some(why.to_owned()), ..known })
        }
        (Source::Manifests(folder), _) => {
            progress.tell("reading manifests");
            let manifests = Manifests::open(folder, node.clone()).map_err(|e| e.to_string())?;
            let pods = if by_name { pods::of_folder(folder) } else { Vec::new() };
            Ok(Known { events: manifests.read(), pods, podless: None })
        }
        (Source::ApiServer { kubeconfig, master }, _) => {
            progress.tell("listing objects of the API server");
            server::read(asked, (kubeconfig, master), (by_name, node))
        }
    }
}

#[cfg(feature = "api-server")]
mod server {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::{Asked, Event, Known, Pod};
    use crate::api::client::{Error, Patience, Server, Watches, connect};
    use crate::track::Tracker;

    /// How long the server may take for its lists.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) fn read(
        asked: &Asked,
        (kubeconfig, master): (&Option<PathBuf>, &Option<String>),
        (by_name, node): (bool, &Arc<str>),
    ) -> Result<Known, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("cannot start: {e}"))?;
        let client = &asked.settings.client;
        let form = client.accept_content_types.clone().filter(|types| !types.is_empty());
        let form = form.unwrap_or_else(|| client.content_type.clone());
        // One person asks once: nothing is held back.
        let (kubeconfig, master) = (kubeconfig.clone(), master.clone());
        let pace = crate::api::pace::Pace { qps: -1.0, burst: 0 };
        let server = Server { kubeconfig, master, form, pace };
        runtime.block_on(async {
            let connection = connect(&server).await.map_err(|e| e.to_string())?;
            connection.check(Duration::from_secs(10)).await.map_err(|e| e.to_string())?;
            let (sender, mut receiver) = mpsc::channel(8192);
            let node = node.clone();
            let _watches = Watches::start(&connection, node.clone(), &sender, &Patience::default());
            let mut tracker = Tracker::new(node);
            let mut events: Vec<Event> = Vec::new();
            let listed = async {
                while !tracker.ready() {
                    let Some(event) = receiver.recv().await else { break };
                    tracker.feed(event.clone());
                    events.push(event);
                }
            };
            let in_time = tokio::time::timeout(PATIENCE, listed).await;
            in_time.map_err(|_| {
                format!("{}: its lists took longer than {PATIENCE:?}", connection.url())
            })?;
            let (pods, podless) = match by_name {
                true => listed_pods(connection.pods().await),
                false => (Vec::new(), None),
            };
            Ok(Known { events, pods, podless })
        })
    }

    /// Who may not list pods, as the proxy itself need not, is told so where a pod is asked for.
    fn listed_pods(listed: Result<Vec<Pod>, Error>) -> (Vec<Pod>, Option<String>) {
        match listed {
            Ok(pods) => (pods, None),
            Err(error) => (Vec::new(), Some(format!("pods could not be listed: {error}"))),
        }
    }
}

#[cfg(not(feature = "api-server"))]
mod server {
    use super::{Asked, Known};

    pub(super) fn read(
        _asked: &Asked,
        _server: (&Option<std::path::PathBuf>, &Option<String>),
        _pods: (bool, &std::sync::Arc<str>),
    ) -> Result<Known, String> {
        Err("this build has no API server client; use --manifests DIR".to_owned())
    }
}
