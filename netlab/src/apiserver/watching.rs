//! Watches: the present state if asked for, then changes as they come, bookmarks, and an end in
//! time. Obeys the orders of `faults`. Tests: with the server.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::faults::{Fault, Orders};
use super::route::{Watch, status};
use super::store::{Change, Verb};
use super::{http, protobuf};

/// Carries a watch out on a connection, which is closed afterwards.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    watch: Watch,
    fault: Option<Fault>,
) -> io::Result<()> {
    let media = if watch.protobuf { protobuf::STREAM } else { http::JSON };
    http::begin_stream(&mut stream, media).await?;
    if fault == Some(Fault::Truncate) {
        return stream.write_all(b"ff\r\n{\"type\":\"ADDED\",\"obj").await;
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut rest = [0; 64];
    tokio::select! {
        told = tell(&mut writer, shared, &watch, fault == Some(Fault::Stale)) => told?,
        // A client that watches sends nothing more: this is its end.
        _ = reader.read(&mut rest) => return Ok(()),
    }
    http::end_stream(&mut writer).await
}

/// Tells everything until the watch is over.
async fn tell(
    writer: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    watch: &Watch,
    stale: bool,
) -> io::Result<()> {
    // Subscribed before the first look at the store: nothing falls in between.
    let mut changes = shared.store.changes();
    let mut orders = shared.faults.orders();
    let mut obeyed = *orders.borrow_and_update();
    let end = Instant::now() + Duration::from_secs(watch.seconds);
    let mut told = match watch.from {
        Some(version) => version,
        None => tell_state(writer, shared, watch, stale).await?,
    };
    let mut bookmark = Instant::now() + shared.manners.bookmarks;
    loop {
        changes.borrow_and_update();
        let now = *orders.borrow_and_update();
        if !obey(writer, (watch, told), (obeyed, now)).await? {
            return Ok(());
        }
        obeyed = now;
        if !now.stalled {
            match shared.store.since(watch.resource, told) {
                None => return say(writer, watch, &gone()).await,
                Some((news, version)) => {
                    say(writer, watch, &events(watch, news, now)).await?;
                    told = version;
                }
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = orders.changed() => {}
            () = sleep_until(bookmark) => {
                bookmark = Instant::now() + shared.manners.bookmarks;
                if watch.bookmarks && !now.stalled {
                    say(writer, watch, &mark(watch, told, "")).await?;
                }
            }
            () = sleep_until(end) => return Ok(()),
        }
    }
}

/// Says lines in the watch's form.
async fn say(writer: &mut (impl AsyncWrite + Unpin), watch: &Watch, lines: &str) -> io::Result<()> {
    if watch.protobuf {
        return http::chunk(writer, &protobuf::frames(lines)).await;
    }
    http::chunk(writer, lines.as_bytes()).await
}

/// Carries out new orders; false ends the watch.
async fn obey(
    writer: &mut (impl AsyncWrite + Unpin),
    (watch, told): (&Watch, u64),
    (before, now): (Orders, Orders),
) -> io::Result<bool> {
    if now.garbage != before.garbage {
        say(writer, watch, "{\"type\":\"MODIFIED\",\"object\":{\"kind\":42\n}}]]\n").await?;
    }
    if now.gone != before.gone {
        say(writer, watch, &gone()).await?;
        return Ok(false);
    }
    if now.bookmark != before.bookmark && watch.bookmarks {
        say(writer, watch, &mark(watch, told, "")).await?;
    }
    Ok(now.cut == before.cut)
}

/// Tells the present state as additions; gives back its version.
async fn tell_state(
    writer: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    watch: &Watch,
    stale: bool,
) -> io::Result<u64> {
    let snapshot = match shared.remembered(watch.resource).filter(|_| stale) {
        Some(old) => old,
        None => shared.store.snapshot(watch.resource),
    };
    let mut text = String::new();
    for object in snapshot.objects.iter().filter(|o| watch.wants(o)) {
        text.push_str(&event("ADDED", &object.whole(watch.resource)));
        if text.len() > 64 * 1024 {
            say(writer, watch, &text).await?;
            text.clear();
        }
    }
    if watch.marks_end && shared.manners.ends_streams {
        text.push_str(&mark(watch, snapshot.version, "\"k8s.io/initial-events-end\":\"true\""));
    }
    say(writer, watch, &text).await?;
    Ok(snapshot.version)
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn gone() -> String {
    event("ERROR", &status(410, "Expired", "too old resource version"))
}

fn mark(watch: &Watch, version: u64, annotation: &str) -> String {
    let (kind, _, group) = watch.resource.names();
    let object = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{group}\",\"metadata\":{{\"resourceVersion\":\
         \"{version}\",\"annotations\":{{{annotation}}}}}}}"
    );
    event("BOOKMARK", &object)
}

/// Changes as this watch sees them: an object that enters or leaves the selection is added or
/// deleted, whatever was done to it.
fn events(watch: &Watch, changes: Vec<Change>, orders: Orders) -> String {
    let changes = if orders.reorder { reordered(changes) } else { changes };
    let mut text = String::new();
    for change in changes {
        let before = change.before.as_ref().is_some_and(|o| watch.wants(o));
        let after = change.verb != Verb::Deleted && watch.wants(&change.object);
        let kind = match (before, after) {
            (false, false) => continue,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let told = event(kind, &change.object.whole(watch.resource));
        text.push_str(&told);
        if orders.duplicate {
            text.push_str(&told);
        }
    }
    text
}

/// Objects in reverse, the changes of one object in their order.
fn reordered(changes: Vec<Change>) -> Vec<Change> {
    let mut seen = BTreeSet::new();
    let mut names: Vec<_> = changes.iter().map(|c| c.object.name.clone()).collect();
    names.retain(|name| seen.insert(name.clone()));
    let mut result = Vec::with_capacity(changes.len());
    for name in names.iter().rev() {
        result.extend(changes.iter().filter(|c| c.object.name == *name).cloned());
    }
    result
}
