//! The simulated heart's relay: ports and what they serve, without a socket. What becomes of a
//! connection to a port is for whoever sends packets to ask. Tests: `proptests`, `sync::tests`.

use std::collections::BTreeMap;

use crate::kernel::{
    Error, ErrorKind, Receipt, RelayFact, RelayKey, RelayOperation, RelayServing, Socket,
};
use crate::model::Protocol;
use crate::relay::Ports;

/// The first port that is given out where any will do: where Linux begins too.
const FIRST_PORT: u16 = 32_768;

/// Listening ports of this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Relay {
    free: Option<BTreeMap<Protocol, Ports>>,
    open: BTreeMap<RelayKey, (u16, RelayServing)>,
    refused: BTreeMap<RelayKey, String>,
}

impl Relay {
    pub(super) fn apply(&mut self, operations: &[RelayOperation]) -> Result<Receipt, Error> {
        for operation in operations {
            match operation {
                RelayOperation::Start(settings) => {
                    let range = settings.ports.clone().unwrap_or(FIRST_PORT..=u16::MAX);
                    let ports = |protocol| (protocol, Ports::new(Some(range.clone())));
                    let all = || Protocol::ALL.into_iter().map(ports).collect();
                    self.free.get_or_insert_with(all);
                }
                RelayOperation::Serve(key, serving) => self.serve(key, serving)?,
                RelayOperation::Stop(key) => {
                    let stopped = self.open.remove(key);
                    self.refused.remove(key);
                    if let (Some((port, _)), Some(free)) = (stopped, &mut self.free) {
                        free.entry(key.origin.protocol).and_modify(|ports| ports.free(port));
                    }
                }
                RelayOperation::Drain(_) => *self = Relay::default(),
            }
        }
        Ok(Receipt::of(operations.len()))
    }

    fn serve(&mut self, key: &RelayKey, serving: &RelayServing) -> Result<(), Error> {
        let missing = || Error::new(ErrorKind::Absent, "relay", "it was not started");
        let free = self.free.as_mut().ok_or_else(missing)?;
        if let Some((_, served)) = self.open.get_mut(key) {
            *served = serving.clone();
            return Ok(());
        }
        let ports = free.get_mut(&key.origin.protocol).ok_or_else(missing)?;
        match ports.candidates().first() {
            Some(port) => {
                ports.take(*port);
                self.refused.remove(key);
                self.open.insert(key.clone(), (*port, serving.clone()));
            }
            None => {
                self.refused.insert(key.clone(), "no free port in --proxy-port-range".to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn ports(&self, keys: &[RelayKey]) -> Vec<RelayFact> {
        let port = |key: &RelayKey| {
            let open = self.open.get(key).map(|(port, _)| Ok(*port));
            open.or_else(|| Some(Err(self.refused.get(key)?.clone())))
        };
        let fact = |key: &RelayKey| Some(RelayFact { key: key.clone(), port: port(key)? });
        keys.iter().filter_map(fact).collect()
    }

    /// What is served at a local address and port.
    pub(super) fn serving(&self, protocol: Protocol, at: Socket) -> Option<&RelayServing> {
        let here = |(key, (port, serving)): &(&RelayKey, &(u16, RelayServing))| {
            key.origin.protocol == protocol && *port == at.port && serving.address == at.address
        };
        self.open.iter().find(here).map(|(_, (_, serving))| serving)
    }
}
