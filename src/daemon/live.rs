//! A configuration file that changes while the process runs: what can be taken on is, what cannot
//! ends the process with the fields' names, and what is wrong is said and left alone.
//! Tests: `config::live` (which fields), `netlab` (a ConfigMap that is swapped).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::hearts::Means;
use super::{Failure, pace, resolve};
use crate::config::live::{Difference, compare};
use crate::config::{self, Settings};
use crate::logging::Handle;
use crate::serve::Health;
use crate::sync::run::{Pace, Request};

/// What a change is carried out on.
pub(super) struct Live {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) health: Health,
    pub(super) logging: Option<Handle>,
    pub(super) means: Means,
    pub(super) pace: Pace,
    /// What `/configz` shows.
    pub(super) shown: Arc<std::sync::Mutex<String>>,
}

/// Follows the configuration file; resolves when the process has to be started anew.
pub(super) async fn follow(live: Live, mut settings: Arc<Settings>) -> Failure {
    loop {
        let Some(file) = settings.config_file.clone() else { return std::future::pending().await };
        if let Err(error) = config::watch::changed(&file).await {
            tracing::warn!(%error, "the configuration file is not watched");
            return std::future::pending().await;
        }
        let place = file.path.display();
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        let new = match config::reload(&settings, &hostname.to_string_lossy()) {
            Ok(new) => new,
            Err(problems) => {
                for problem in problems {
                    tracing::error!(%problem, "the changed configuration is not taken on");
                }
                settings = Arc::new(as_read_now(&settings));
                continue;
            }
        };
        let Difference { live: fields, restart } = compare(&settings, &new);
        if !restart.is_empty() {
            return Failure::new(format_args!(
                "--config {place} has changed in {}; ending so that it is read anew",
                restart.join(", ")
            ));
        }
        settings = Arc::new(new);
        live.take_on(&settings).await;
        tracing::info!(fields = fields.join(","), "took on the changed configuration {place}");
    }
}

/// The same settings, beside a file whose newest content is known and not looked at again.
fn as_read_now(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    if let Some(file) = &mut settings.config_file
        && let Ok(content) = std::fs::read(&file.path)
    {
        file.content = content.into();
    }
    settings
}

impl Live {
    async fn take_on(&self, settings: &Arc<Settings>) {
        if let Some(logging) = &self.logging {
            logging.set_verbosity(settings.logging.verbosity);
        }
        self.health.set_timeout(2 * settings.sync_period);
        let pace = Pace { wait_for_node: self.pace.wait_for_node, ..pace(settings, None) };
        let resolve = Box::new(resolve(settings.clone(), self.means.clone()));
        // Nobody takes them only when the loop has ended, and then the process ends.
        let _ = self.requests.send(Request::Pace(pace)).await;
        let _ = self.requests.send(Request::Resolve(resolve)).await;
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *shown = configz(settings);
    }
}

/// The configuration in force, as `/configz` has it: under the group's name.
pub(super) fn configz(settings: &Settings) -> String {
    serde_json::json!({ "kubeproxy.config.k8s.io": settings.written }).to_string()
}
