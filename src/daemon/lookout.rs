//! Carries what the kernel tells of others' changes to the sync loop, on a thread that only waits.
//! It judges nothing. Tests: `netlab` (`drift-…`).

use tokio::sync::mpsc;

use crate::kernel::Kernel;
use crate::kernel::drift::Foreign;

/// Changes that may wait for the sync loop.
const WAITING: usize = 256;

/// Starts the thread; `None`, with a warning, where changes by others cannot be heard of.
pub(super) fn start(kernel: &mut dyn Kernel) -> Option<mpsc::Receiver<Foreign>> {
    let mut lookout = match kernel.lookout() {
        Ok(lookout) => lookout?,
        Err(error) => {
            tracing::warn!(%error, "changes by others are noticed at housekeeping only");
            return None;
        }
    };
    let (sender, foreign) = mpsc::channel(WAITING);
    let listen = move || {
        loop {
            match lookout.next() {
                Ok(news) => {
                    if sender.blocking_send(news).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "changes by others are noticed at housekeeping only");
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("lookout".to_owned()).spawn(listen);
    thread.map(|_| foreign).inspect_err(|error| tracing::warn!(%error, "no thread to listen")).ok()
}
