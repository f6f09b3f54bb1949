//! Sees others' changes to the legacy flavour's tables, of which the kernel tells nobody: how many
//! entries a table has and how many bytes they take costs one system call, however many there are.
//! A change that leaves both as they were is seen by housekeeping only. Knows no rule.
//! Tests: `netlab` (`drift-…` with `--mode iptables-legacy`).

use std::collections::BTreeMap;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{SOL_IP, SOL_IPV6, c_int, getsockopt, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::socket::errno_error;
use crate::kernel::Error;
use crate::kernel::drift::{Foreign, Lookout, Touched};
use crate::model::Family;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` (`linux/netfilter_ipv4/ip_tables.h`).
const GET_INFO: c_int = 64;
/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
const TABLES: [&str; 3] = ["filter", "nat", "mangle"];

/// `struct ipt_getinfo`, which is that of IPv6, too.
#[repr(C)]
#[derive(Default)]
struct Told {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// Entries and bytes of each table that is there.
type Sizes = BTreeMap<(Family, &'static str), (u32, u32)>;

/// What is known of the tables' sizes. Who writes holds it meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Gauge {
    sockets: Arc<[OwnedFd; 2]>,
    known: Arc<Mutex<Sizes>>,
}

impl Gauge {
    pub(super) fn open() -> Result<Gauge, Error> {
        let sockets = [raw(AddressFamily::Inet)?, raw(AddressFamily::Inet6)?];
        let gauge = Gauge { sockets: Arc::new(sockets), known: Arc::default() };
        gauge.write(|| ());
        Ok(gauge)
    }

    /// Does something to the tables that is our own doing.
    pub(super) fn write<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let outcome = change();
        *known = self.sizes();
        outcome
    }

    /// Tables that are not as they were; none while somebody writes for us.
    fn changed(&self) -> Vec<Touched> {
        let mut known = match self.known.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Vec::new(),
        };
        let now = self.sizes();
        let before = std::mem::replace(&mut *known, now.clone());
        let places = Family::ALL.into_iter().flat_map(|f| TABLES.map(|table| (f, table)));
        let other = places.filter(|place| before.get(place) != now.get(place));
        let touched =
            |(family, table): (_, &str)| Touched { family, table: table.into(), object: "".into() };
        other.map(touched).collect()
    }

    fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::new();
        for family in Family::ALL {
            for table in TABLES {
                let size = size_of_table(&self.sockets[family.index()], family, table);
                sizes.extend(size.map(|size| ((family, table), size)));
            }
        }
        sizes
    }
}

fn raw(of: AddressFamily) -> Result<OwnedFd, Error> {
    let opened = socket(of, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
    opened.map_err(|e| errno_error("look at the tables of iptables", e))
}

/// Entries and bytes of a table; `None` where it is not there.
fn size_of_table(socket: &OwnedFd, family: Family, table: &str) -> Option<(u32, u32)> {
    let mut told = Told::default();
    told.name[..table.len()].copy_from_slice(table.as_bytes());
    let level = match family {
        Family::V4 => SOL_IP,
        Family::V6 => SOL_IPV6,
    };
    let mut len = size_of::<Told>() as socklen_t;
    // SAFETY: the socket is open; `told` is writable for `len` bytes, its layout is the kernel's
    // and every pattern of bits is a value of it; the kernel keeps neither pointer.
    let failed = unsafe {
        getsockopt(socket.as_raw_fd(), level, GET_INFO, (&raw mut told).cast(), &mut len)
    };
    Errno::result(failed).ok().map(|_| (told.num_entries, told.size))
}

impl Lookout for Gauge {
    fn next(&mut self) -> Result<Foreign, Error> {
        loop {
            std::thread::sleep(EVERY);
            let touched = self.changed();
            if !touched.is_empty() {
                return Ok(Foreign {
                    touched: touched.into_iter().collect(),
                    ..Foreign::default()
                });
            }
        }
    }
}
