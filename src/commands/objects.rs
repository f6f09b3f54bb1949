//! The objects, read once: from a dump, a folder of manifests or the API server.
//! What cannot be read is an error that says what to do. Tests: `netlab`.

use super::progress::Progress;
use crate::api::manifests::Manifests;
use crate::api::pods;
use crate::cli::ask::{Asked, Command, Objects};
use crate::config::Source;
use crate::model::{Event, Pod};

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) events: Vec<Event>,
    pub(super) pods: Vec<Pod>,
}

/// Reads the source that flags name; else what a dump has stays. Pods only where they can be asked for
/// by name, or are to be kept: there may be many.
pub(super) fn read(asked: &Asked, known: Known, progress: &mut Progress) -> Result<Known, String> {
    let by_name = !matches!(asked.command, Command::Check { .. });
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    match (&asked.settings.source, asked.objects) {
        (_, Objects::Unnamed) if asked.from.is_some() || !in_pod => Ok(known),
        (Source::Manifests(folder), _) => {
            progress.tell("reading manifests");
            let manifests = Manifests::open(folder, asked.settings.node_name.clone())
                .map_err(|e| e.to_string())?;
            let pods = if by_name { pods::of_folder(folder) } else { Vec::new() };
            Ok(Known { events: manifests.read(), pods })
        }
        (Source::ApiServer { kubeconfig, master }, _) => {
            progress.tell("listing objects of the API server");
            server::read(asked, (kubeconfig, master), by_name)
        }
    }
}

#[cfg(feature = "api-server")]
mod server {
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::{Asked, Event, Known};
    use crate::api::client::{Patience, Server, Watches, connect};
    use crate::track::Tracker;

    /// How long the server may take for its lists.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) fn read(
        asked: &Asked,
        (kubeconfig, master): (&Option<PathBuf>, &Option<String>),
        by_name: bool,
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
            let node = asked.settings.node_name.clone();
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
            let pods = match by_name {
                true => connection.pods().await.unwrap_or_default(),
                false => Vec::new(),
            };
            Ok(Known { events, pods })
        })
    }
}

#[cfg(not(feature = "api-server"))]
mod server {
    use super::{Asked, Known};

    pub(super) fn read(
        _asked: &Asked,
        _server: (&Option<std::path::PathBuf>, &Option<String>),
        _by_name: bool,
    ) -> Result<Known, String> {
        Err("this build has no API server client; use --manifests DIR".to_owned())
    }
}
