//! Connections that this process carries itself: raises what limits them, and holds the relay.
//! Knows ports and endpoints, no Service. Tests: `netlab`; the relay's own in `relay`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::{
    Error, ErrorKind, Receipt, RelayAnnounce, RelayFact, RelayKey, RelayOperation, RelayServing,
    RelaySettings, Socket,
};
use crate::model::Protocol;
use crate::relay::{self, Announce, Board, Limits, Serving, Settings, Transport, Trouble};

/// Descriptors that are asked for: two for each of half a million connections.
const DESCRIPTORS: u64 = 1 << 20;
/// Descriptors that are not for connections: sockets of this process, files, idle pipes. Of a few
/// descriptors it is half.
const RESERVED: u64 = 2048;
/// Fewer connections than this are worth a warning.
const FEW: u64 = 4096;

/// The relay, once it was started.
#[derive(Debug, Default)]
pub(super) struct Relay {
    relay: Option<relay::Relay<RelayKey>>,
    refused: BTreeMap<RelayKey, String>,
    /// Where others see the figures.
    pub(super) board: Board<RelayKey>,
}

impl Relay {
    pub(super) fn apply(&mut self, operations: &[RelayOperation]) -> Result<Receipt, Error> {
        for operation in operations {
            match operation {
                RelayOperation::Start(settings) => self.start(settings)?,
                RelayOperation::Serve(key, serving) => self.serve(key, serving)?,
                RelayOperation::Stop(key) => {
                    self.refused.remove(key);
                    self.started()?.stop(key);
                }
                RelayOperation::Drain(patience) => {
                    if let Some(relay) = self.relay.take() {
                        relay.drain(*patience);
                    }
                }
            }
        }
        Ok(Receipt::of(operations.len()))
    }

    /// The ports of these names that were asked for.
    pub(super) fn ports(&self, keys: &[RelayKey]) -> Vec<RelayFact> {
        let port = |key: &RelayKey| match self.refused.get(key) {
            Some(why) => Some(Err(why.clone())),
            None => self.relay.as_ref()?.port(key).map(Ok),
        };
        let fact = |key: &RelayKey| Some(RelayFact { key: key.clone(), port: port(key)? });
        keys.iter().filter_map(fact).collect()
    }

    fn started(&mut self) -> Result<&mut relay::Relay<RelayKey>, Error> {
        let missing = || Error::new(ErrorKind::Absent, "relay", "it was not started");
        self.relay.as_mut().ok_or_else(missing)
    }

    fn start(&mut self, settings: &RelaySettings) -> Result<(), Error> {
        if self.relay.is_some() {
            return Ok(());
        }
        let limits = limits(settings, descriptors());
        let (ports, udp_timeout) = (settings.ports.clone(), settings.udp_timeout);
        let settings = Settings { limits, ports, udp_timeout };
        let relay = relay::Relay::start(&settings, self.board.clone()).map_err(|trouble| {
            Error::new(ErrorKind::Broken, "start the relay", in_words(trouble))
        })?;
        self.relay = Some(relay);
        Ok(())
    }

    fn serve(&mut self, key: &RelayKey, serving: &RelayServing) -> Result<(), Error> {
        let Some(transport) = transport(key.origin.protocol) else {
            self.refused.insert(key.clone(), "SCTP is not carried".to_owned());
            return Ok(());
        };
        let at = SocketAddr::new(serving.address, 0);
        let group = format!("{}/{}", key.origin, key.origin.protocol);
        let name = (key.clone(), &*group);
        match self.started()?.serve(name, (transport, at), &as_serving(serving)) {
            Ok(_) => self.refused.remove(key),
            Err(trouble) => self.refused.insert(key.clone(), in_words(trouble)),
        };
        Ok(())
    }
}

fn transport(protocol: Protocol) -> Option<Transport> {
    match protocol {
        Protocol::Tcp => Some(Transport::Tcp),
        Protocol::Udp => Some(Transport::Udp),
        Protocol::Sctp => None,
    }
}

fn as_serving(serving: &RelayServing) -> Serving {
    let socket = |socket: &Socket| SocketAddr::new(socket.address, socket.port);
    Serving {
        endpoints: serving.endpoints.iter().map(socket).collect(),
        affinity: serving.affinity,
        announce: match serving.announce {
            RelayAnnounce::Nothing => Announce::Nothing,
            RelayAnnounce::ProxyV2 => Announce::ProxyV2,
        },
    }
}

fn in_words(trouble: Trouble) -> String {
    match trouble {
        Trouble::Exhausted => {
            "no free port in --proxy-port-range, or no descriptor for one (RLIMIT_NOFILE; half of \
             them are for connections)"
                .to_owned()
        }
        Trouble::Other(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        Trouble::NotNow | Trouble::Refused | Trouble::Reset | Trouble::NoPort => {
            format!("{trouble:?}")
        }
    }
}

/// How much may be carried with so many descriptors; says so where it is less than was asked for, or
/// little.
fn limits(settings: &RelaySettings, descriptors: u64) -> Limits {
    let descriptors = descriptors - RESERVED.min(descriptors / 2);
    let fitting = Limits::fitting(descriptors).max(1);
    let all = settings.most_connections.map_or(fitting, |most| most.min(fitting)).max(1);
    let cut = [settings.most_connections, settings.most_of_each].into_iter().flatten().max();
    if let Some(asked) = cut.filter(|asked| *asked > fitting) {
        tracing::warn!(
            asked,
            fitting,
            "fewer connections are carried at once than was asked for: descriptors do not allow more \
             (RLIMIT_NOFILE, fs.nr_open; CAP_SYS_RESOURCE raises the first)"
        );
    } else if settings.most_connections.is_none() && fitting < FEW {
        tracing::warn!(
            fitting,
            "descriptors allow few connections at once \
             (RLIMIT_NOFILE, fs.nr_open; CAP_SYS_RESOURCE raises the first)"
        );
    }
    Limits { all, each: settings.most_of_each.unwrap_or(all), descriptors }
}

/// How many descriptors this process may have, after asking for more.
fn descriptors() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    // Beyond the hard limit only with CAP_SYS_RESOURCE, and never beyond fs.nr_open.
    for wanted in [DESCRIPTORS.max(hard), hard] {
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)).is_ok() {
            return wanted;
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_is_asked_for_as_far_as_descriptors_go() {
        let limits = |all, each, descriptors| {
            let asked = RelaySettings {
                most_connections: all,
                most_of_each: each,
                ..RelaySettings::default()
            };
            let limits = limits(&asked, descriptors);
            (limits.all, limits.each)
        };
        assert_eq!(limits(Some(10), None, 1 << 20), (10, 10));
        assert_eq!(limits(Some(10_000), Some(70), 1024), (240, 70));
        assert_eq!(limits(None, None, 20_000), (8415, 8415));
        assert_eq!(limits(None, None, 0), (1, 1));
    }
}
