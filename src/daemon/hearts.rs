//! The kernel's hearts as the settings want them: opened, and refused where they lack what the mode
//! cannot do without. It must never write a rule. Tests: `netlab` (each lack is one line).

use super::Failure;
use crate::config::{KernelChoice, Settings};
use crate::kernel::real::{self, Real};
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capability, Facts, Kernel, Query, RelayKey};
use crate::model::{Family, Mode};
use crate::relay::Board;

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
            let real = match settings.mode {
                Mode::Iptables | Mode::Ipvs => open_real()?.with_xtables(None),
                // Only to see what another mode has left.
                Mode::Nftables | Mode::Userspace => open_real()?.seeing_xtables(None),
            };
            let board = real.relay_board();
            (Box::new(real), Some(board))
        }
    };
    let mut lacks = kernel.capabilities().lacks.clone();
    lacks.retain(|(lack, _)| lack.is_vital() && lack.concerns(settings.mode));
    if settings.mode == Mode::Ipvs && lacks.is_empty() {
        lacks = lacks_of_ipvs(settings, &mut *kernel)?;
    }
    match lacks.first() {
        None => Ok((kernel, board)),
        Some((lack, said)) => {
            let remedy = lack.remedy();
            Err(Failure::new(format_args!("kernel: {remedy} (the kernel said: {said})")))
        }
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

/// The families to program: a secondary one that the kernel lacks is left out, a primary one that
/// it lacks is an error (`cmd/kube-proxy/app/server_linux.go`).
pub(super) fn families(settings: &Settings, kernel: &dyn Kernel) -> Result<Vec<Family>, Failure> {
    let six = match settings.mode {
        Mode::Iptables | Mode::Ipvs => Capability::XtablesIpv6,
        _ => Capability::Ipv6,
    };
    if kernel.capabilities().has(six) {
        return Ok(Family::ALL.to_vec());
    }
    if settings.primary_family(None) == Family::V6 {
        let line = "kernel: --bind-address is IPv6, but this host has no IPv6; \
                    enable it or choose an IPv4 address";
        return Err(Failure::new(line));
    }
    Ok(vec![Family::V4])
}
