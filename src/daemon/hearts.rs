//! The kernel's hearts as the settings want them: opened, and refused where they lack what the mode
//! cannot do without. It must never write a rule. Tests: `netlab` (each lack is one line).

use super::Failure;
use crate::config::{KernelChoice, Settings};
use crate::kernel::real::{self, Real};
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capabilities, Capability, Facts, Kernel, Query, RelayKey};
use crate::model::{Family, Mode, Steering};
use crate::relay::Board;
use crate::sync::Options;

/// Either heart.
pub(super) type AnyKernel = Box<dyn Kernel + Send>;

/// The kernel, once with each flavour of iptables that may have something of ours.
pub(super) fn every_kernel(settings: &Settings) -> Result<Vec<AnyKernel>, Failure> {
    if settings.kernel == KernelChoice::Simulated {
        return Ok(vec![open_kernel(settings)?]);
    }
    let mut kernels: Vec<AnyKernel> = Vec::new();
    for flavour in real::flavours() {
        kernels.push(Box::new(open_real()?.seeing_xtables(Some(flavour))));
    }
    if kernels.is_empty() {
        kernels.push(Box::new(open_real()?));
    }
    let denied = |kernel: &AnyKernel| !kernel.capabilities().has(Capability::NetAdmin);
    match kernels.iter().any(denied) {
        true => Err(Failure::new(format_args!("kernel: {}", Capability::NetAdmin.remedy()))),
        false => Ok(kernels),
    }
}

fn open_real() -> Result<Real, Failure> {
    Real::open().map_err(|e| {
        Failure::new(format_args!("kernel: {e}; netfilter's netlink socket is needed"))
    })
}

/// Opens the kernel and refuses one that lacks what the mode cannot do without.
pub(super) fn open_kernel(settings: &Settings) -> Result<AnyKernel, Failure> {
    open_with_board(settings).map(|(kernel, _)| kernel)
}

/// The same, with the board on which the figures of carried connections stand.
pub(super) fn open_with_board(
    settings: &Settings,
) -> Result<(AnyKernel, Option<Board<RelayKey>>), Failure> {
    let (mut kernel, board): (AnyKernel, _) = match settings.kernel {
        KernelChoice::Simulated => (Box::new(Simulated::new(sim::Host::new(1))), None),
        KernelChoice::Real => {
            let real = open_real()?;
            let rules = settings.mode.rules(steering(settings, real.capabilities())?);
            let real = match rules {
                Mode::Iptables | Mode::Ipvs => real.with_xtables(None),
                // Only to see what another mode has left.
                Mode::Nftables | Mode::Userspace => real.seeing_xtables(None),
            };
            let board = real.relay_board();
            (Box::new(real), Some(board))
        }
    };
    let capabilities = kernel.capabilities();
    let rules = settings.mode.rules(steering(settings, capabilities)?);
    let mut lacks = vital_lacks(capabilities, rules);
    // What iptables stands in for.
    let before = match (settings.mode, rules) {
        (Mode::Userspace, Mode::Iptables) => vital_lacks(capabilities, Mode::Nftables),
        _ => Vec::new(),
    };
    if settings.mode == Mode::Ipvs && lacks.is_empty() {
        lacks = lacks_of_ipvs(settings, &mut *kernel)?;
    }
    let told = |(lack, said): &(Capability, String)| {
        format!("{} (the kernel said: {said})", lack.remedy())
    };
    match (lacks.first(), before.first()) {
        (None, _) => Ok((kernel, board)),
        (Some(lack), Some(first)) if lack.0 != first.0 => {
            let (first, lack) = (told(first), told(lack));
            Err(Failure::new(format_args!("kernel: {first}; nor can iptables do it: {lack}")))
        }
        (Some(lack), _) => Err(Failure::new(format_args!("kernel: {}", told(lack)))),
    }
}

/// What rules of a mode cannot be written without.
fn vital_lacks(found: &Capabilities, rules: Mode) -> Vec<(Capability, String)> {
    let vital = |(lack, _): &&(Capability, String)| lack.is_vital() && lack.concerns(rules);
    found.lacks.iter().filter(vital).cloned().collect()
}

/// Whose rules are to lead packets in userspace mode: `auto`, `nftables` or `iptables`.
const STEERING: &str = "KUBE_PROXY_USERSPACE_RULES";

/// Whose rules lead packets in userspace mode: iptables' where nf_tables lacks something, or as the
/// environment says.
fn steering(settings: &Settings, found: &Capabilities) -> Result<Steering, Failure> {
    let able = !found.has(Capability::NetAdmin) || vital_lacks(found, Mode::Nftables).is_empty();
    match std::env::var(STEERING).unwrap_or_default().as_str() {
        _ if settings.mode != Mode::Userspace || settings.kernel == KernelChoice::Simulated => {
            Ok(Steering::Nftables)
        }
        "" | "auto" if able => Ok(Steering::Nftables),
        "nftables" => Ok(Steering::Nftables),
        "" | "auto" | "iptables" => Ok(Steering::Iptables),
        other => Err(Failure::new(format_args!(
            "{STEERING} is {other:?}: set it to auto, nftables or iptables, or not at all"
        ))),
    }
}

/// What ipvs mode needs and this kernel lacks.
fn lacks_of_ipvs(
    settings: &Settings,
    kernel: &mut dyn Kernel,
) -> Result<Vec<(Capability, String)>, Failure> {
    let scheduler = settings.ipvs.options().choice.scheduler;
    let needed = vec![
        Capability::Ipvs,
        Capability::Ipset,
        Capability::Dummy,
        Capability::IpvsScheduler(scheduler),
    ];
    match kernel.read(&Query::Lacks(needed)) {
        Ok(Facts::Lacks(lacks)) => Ok(lacks),
        Ok(_) => Ok(Vec::new()),
        Err(error) => Err(Failure::new(format_args!("kernel: {error}"))),
    }
}

/// What this kernel has of what the options may ask for.
#[derive(Clone)]
pub(super) struct Means {
    /// The families to program.
    pub(super) families: Vec<Family>,
    /// Whose rules lead packets in userspace mode.
    pub(super) steering: Steering,
}

impl Means {
    /// The options as they can be met.
    pub(super) fn fit(&self, options: Options) -> Options {
        Options { families: self.families.clone(), steering: self.steering, ..options }
    }
}

/// A secondary family that the kernel lacks is left out, a primary one that it lacks is an error
/// (`cmd/kube-proxy/app/server_linux.go`).
pub(super) fn means(settings: &Settings, kernel: &dyn Kernel) -> Result<Means, Failure> {
    let found = kernel.capabilities();
    let steering = steering(settings, found)?;
    let six = match settings.mode.rules(steering) {
        Mode::Iptables | Mode::Ipvs => Capability::XtablesIpv6,
        _ => Capability::Ipv6,
    };
    let with = |families: Vec<Family>| Means { families, steering };
    if found.has(six) {
        return Ok(with(Family::ALL.to_vec()));
    }
    if settings.primary_family(None) == Family::V6 {
        let line = "kernel: --bind-address is IPv6, but this host has no IPv6; \
                    enable it or choose an IPv4 address";
        return Err(Failure::new(line));
    }
    Ok(with(vec![Family::V4]))
}
