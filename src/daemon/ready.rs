//! What a service manager (systemd) is told: ready once the first sync is done, alive as long as
//! what waits to be programmed is not late. Without `NOTIFY_SOCKET` it does nothing.
//! Tests: `netlab`.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::serve::Health;

/// How often it is looked whether the first sync is done.
const GLANCE: Duration = Duration::from_millis(200);

/// Tells it for ever.
pub(super) async fn tell(health: Health) {
    let pings = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    let mut ready = false;
    let mut last_ping: Option<Instant> = None;
    loop {
        if !ready && health.last_updated().is_some() {
            ready = true;
            say(&[NotifyState::Ready, NotifyState::Status("programmed")]);
        }
        let due = pings.is_some_and(|every| last_ping.is_none_or(|last| last.elapsed() >= every));
        if due && health.is_healthy(Instant::now()) {
            last_ping = Some(Instant::now());
            say(&[NotifyState::Watchdog]);
        }
        match (ready, pings) {
            (true, None) => return std::future::pending().await,
            (true, Some(every)) => tokio::time::sleep(every / 2).await,
            (false, _) => tokio::time::sleep(GLANCE).await,
        }
    }
}

/// Tells that the end has begun.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
