//! userspace mode's own ports, and those whom no rule led there. Tests: it is one.

use std::net::SocketAddr;
use std::process::Command;

use super::ipvs::tool;
use super::userspace::wait_for_web;
use super::{Stop, Verdict, eventually};
use crate::client::{Outcome, ask_tcp};
use crate::load::PATIENCE;
use crate::setting::Setting;

/// Whom no rule led there gets no answer at a port of kube-proxy's own: from outside, from a pod, or on
/// the node itself.
pub(super) fn strangers(setting: &mut Setting) -> Verdict {
    wait_for_web(setting)?;
    let mut own = Vec::new();
    eventually(|| {
        own = own_ports(setting).unwrap_or_default();
        let of = |six: bool| own.iter().any(|socket| socket.is_ipv6() == six);
        (!of(false) || !of(true)).then(|| format!("ports of both families are not there: {own:?}"))
    })?;
    let of = |six: bool| own.iter().find(|socket| socket.is_ipv6() == six).copied();
    let (four, six) = (of(false).ok_or("no port")?, of(true).ok_or("no port of IPv6")?);
    let route = format!("route add {}/32 via 172.18.1.2", four.ip());
    let routed = setting.lab.router.run(|| Command::new("ip").args(route.split(' ')).status());
    if !routed.is_ok_and(|status| status.success()) {
        return Err(Stop::Failed(format!("ip {route}")));
    }
    for who in ["outside", "dns-1", "node"] {
        let place = setting.lab.place(who).ok_or("nobody")?.clone();
        for to in [four, six] {
            // Outside has no route to the other one.
            if who == "outside" && to.is_ipv6() {
                continue;
            }
            let outcome = place.run(|| ask_tcp(None, to, PATIENCE));
            if outcome != Outcome::Silence {
                return Err(format!("{who} at {to}: {outcome:?}").into());
            }
        }
    }
    wait_for_web(setting)?;
    Ok(format!("{} ports", own.len()))
}

/// Where kube-proxy listens for TCP itself.
fn own_ports(setting: &Setting) -> Result<Vec<SocketAddr>, Stop> {
    let listed = tool(setting, "ss -tlnH")?;
    let sockets = listed.lines().filter_map(|line| line.split_whitespace().nth(3)?.parse().ok());
    let known = |socket: &SocketAddr| match socket.ip() {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.octets().starts_with(&[0xfd, 0x6b]),
    };
    Ok(sockets.filter(known).collect())
}
