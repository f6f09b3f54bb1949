//! Where the cluster's state comes from: files in a folder, or the API server.
//! It only starts what `api` has, and turns what cannot be started into one line.
//! Tests: `netlab`.

use std::future::pending;
use std::pin::Pin;

use tokio::sync::mpsc;

use super::Failure;
use crate::api::manifests::Manifests;
use crate::config::{Settings, Source};
use crate::model::{Event, Notice};
use crate::serve::Metrics;

/// Tells the API server about Notices, where there is one.
pub(super) type Report = Box<dyn FnMut(&[Notice]) + Send>;

/// A source that was started.
pub(super) struct Started {
    /// Takes in all Notices that hold.
    pub(super) reporter: Report,
    /// Resolves if the source can never work.
    pub(super) failure: Pin<Box<dyn Future<Output = Failure>>>,
    /// Whether this node must be known before anything is programmed.
    pub(super) wait_for_node: bool,
}

/// Starts the source that the settings name.
pub(super) async fn start(
    settings: &Settings,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
) -> Result<Started, Failure> {
    match &settings.source {
        Source::Manifests(path) => {
            let manifests =
                Manifests::open(path, settings.node_name.clone()).map_err(Failure::new)?;
            tokio::spawn(manifests.run(events));
            let failure = Box::pin(pending());
            Ok(Started { reporter: Box::new(|_| {}), failure, wait_for_node: false })
        }
        Source::ApiServer { kubeconfig, master } => {
            api_server(settings, (kubeconfig, master), (events, metrics)).await
        }
    }
}

#[cfg(feature = "api-server")]
async fn api_server(
    settings: &Settings,
    (kubeconfig, master): (&Option<std::path::PathBuf>, &Option<String>),
    (events, metrics): (mpsc::Sender<Event>, Metrics),
) -> Result<Started, Failure> {
    use crate::api::client::{Patience, Server, Watches, connect};
    use crate::api::pace::Pace;
    use crate::api::report::{Reporter, Restraint};
    use crate::config::gates;

    let pace = Pace { qps: settings.client.qps, burst: settings.client.burst };
    let client = &settings.client;
    let form = client.accept_content_types.clone().filter(|types| !types.is_empty());
    let form = form.unwrap_or_else(|| client.content_type.clone());
    let server = Server { kubeconfig: kubeconfig.clone(), master: master.clone(), form, pace };
    let connection = connect(&server).await.map_err(Failure::new)?;
    let connection = connection.telling(telling(metrics.clone()));
    tracing::info!(server = connection.url(), "watching the API server");
    let node_name = settings.node_name.clone();
    let mut reporter = Reporter::start(&connection, node_name.clone(), Restraint::default());
    let say_started = reporter.starting();
    let stream_lists = gates::is_on(&settings.feature_gates, "WatchListClient");
    let failure = async move {
        // The watches retry whatever may pass; what cannot is said by the first question, once.
        let checked = connection.check(std::time::Duration::from_secs(10)).await;
        if let Err(error) = checked {
            if error.is_final() {
                return Failure::new(error);
            }
            tracing::warn!(%error, "the API server does not answer yet; trying on");
        }
        let patience = Patience { stream_lists, ..Patience::default() };
        let watches = Watches::start(&connection, node_name, &events, &patience);
        say_started();
        metrics.watch_by(watching(watches.states().to_vec()));
        pending().await
    };
    Ok(Started {
        reporter: Box::new(move |notices| reporter.report(notices)),
        failure: Box::pin(failure),
        wait_for_node: true,
    })
}

/// Counts requests.
#[cfg(feature = "api-server")]
fn telling(metrics: Metrics) -> crate::api::client::Tell {
    std::sync::Arc::new(move |requested| {
        let crate::api::client::Requested { method, host, status, took } = *requested;
        metrics.requested(&crate::serve::Requested { method, host, status, took });
    })
}

/// How the watches fare, for whoever collects metrics.
#[cfg(feature = "api-server")]
fn watching(
    states: Vec<(crate::model::Kind, std::sync::Arc<crate::api::client::WatchState>)>,
) -> crate::serve::Watching {
    Box::new(move || {
        let figures = states.iter().map(|(kind, state)| crate::serve::WatchFigures {
            kind: *kind,
            // A clock that was set back makes it silent for no time.
            silent: state.last_contact().map(|at| at.elapsed().unwrap_or_default()),
            lists: state.lists(),
            failures: state.failures(),
        });
        figures.collect()
    })
}

#[cfg(not(feature = "api-server"))]
async fn api_server(
    _settings: &Settings,
    _server: (&Option<std::path::PathBuf>, &Option<String>),
    _fed: (mpsc::Sender<Event>, Metrics),
) -> Result<Started, Failure> {
    Err(Failure::new("this build has no API server client; use --manifests DIR"))
}
