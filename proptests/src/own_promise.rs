//! The promises that the proxy itself judges by (`kube_proxy::promise`), put into the oracle's
//! words, so that the two can be held against each other. Knows no rule.
//! Tests: `tests/properties.rs`.

use std::net::IpAddr;

use kube_proxy::api::Decoder;
use kube_proxy::promise::{self, Node, Promises};
use kube_proxy::track::Tracker;

use crate::cluster::{Mode, Setup};
use crate::fate::{Entry, Packet, Promise};
use crate::world::{Objects, events};

/// What the proxy says is promised for each packet.
pub fn of(setup: &Setup, objects: &Objects, packets: &[Packet]) -> Vec<Promise> {
    let mut tracker = Tracker::new(setup.node_name.as_str().into());
    let mut decoder = Decoder::new(setup.node_name.as_str());
    events(setup, objects, &mut decoder).into_iter().for_each(|event| tracker.feed(event));
    let node = node(setup);
    let promises = Promises::new(tracker.cluster(), &node);
    packets.iter().map(|packet| translated(promises.of(&asked(packet)))).collect()
}

fn node(setup: &Setup) -> Node {
    let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    Node {
        mode: setup.mode,
        rules: setup.rules(),
        families: setup.families.clone(),
        addresses: setup.addresses.iter().copied().chain(loopback).collect(),
        detector: setup.detector.clone(),
        masquerade_all: setup.masquerade_all,
        node_port_addresses: setup.node_port_addresses.clone(),
        localhost_node_ports: setup.localhost_node_ports && setup.mode == Mode::Iptables,
    }
}

fn asked(packet: &Packet) -> promise::Packet {
    promise::Packet {
        protocol: packet.protocol,
        source: packet.source,
        destination: packet.dest,
        port: packet.port,
        link: match &packet.entry {
            Entry::Node => None,
            Entry::Link(name) => Some(name.clone()),
        },
    }
}

fn translated(own: promise::Promise) -> Promise {
    match own {
        promise::Promise::Endpoints(endpoints) => Promise::Dnat(endpoints),
        promise::Promise::Reject => Promise::Reject,
        promise::Promise::Drop => Promise::Drop,
        promise::Promise::Accept => Promise::Accept,
        promise::Promise::Untouched => Promise::Untouched,
    }
}
