//! What the kernel alone takes: batches that were rendered before, with nothing else to do.
//! Two kinds: the proxy's own, and the least table that could hold the same endpoints.
//! Tests: by running it.

use std::sync::{Arc, Mutex, PoisonError};

use kube_proxy::backend::nftables::elements::{Element, Gives, Key, socket_bytes};
use kube_proxy::backend::nftables::layout::{Set, TABLE};
use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{Kernel, NftBatch, Socket, Transaction};
use kube_proxy::model::{Family, Protocol};
use kube_proxy::netlink::nft::Batch;
use kube_proxy::sync::Proxy;

use crate::cluster::{Cluster, Shape, cluster_ip, feed};
use crate::figures::Figures;
use crate::meter::measure;
use crate::sink::{Kept, Sink};

/// Services whose elements go into one batch of the two maps, so that it has some 20,000 elements.
const STEP: usize = 20_000;

/// Runs the case: the proxy's batches first, then the two maps in another namespace.
pub(super) fn run(shape: &Shape) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let recorded = recorded(shape, &mut figures)?;
    replay("replay", recorded, &mut figures)?;
    super::enter_new_namespace()?;
    // The namespace that was left is taken apart meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(300 + shape.services as u64 / 25));
    replay("two_maps", two_maps(shape), &mut figures)?;
    Ok(figures)
}

/// The proxy's batches, and how long it took to make them.
fn recorded(shape: &Shape, figures: &mut Figures) -> Result<Vec<NftBatch>, String> {
    let cluster = Cluster::new(shape.clone());
    let kept: Kept = Arc::new(Mutex::new(Vec::new()));
    let mut proxy = Proxy::new(Box::new(Sink::keeping(&kept)), cluster.options());
    feed(&mut proxy, &cluster);
    let (made, span) = measure(|| proxy.sync());
    made.map_err(|e| e.to_string())?;
    figures.span("made", span);
    let batches = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(batches)
}

fn replay(name: &str, batches: Vec<NftBatch>, figures: &mut Figures) -> Result<(), String> {
    let mut kernel = Real::open().map_err(|e| e.to_string())?;
    let all: Vec<Transaction> = batches.into_iter().map(Transaction::Nft).collect();
    let (outcome, span) =
        measure(|| all.iter().try_for_each(|transaction| kernel.apply(transaction).map(|_| ())));
    outcome.map_err(|e| e.to_string())?;
    figures.span(name, span);
    figures.put(format!("{name}_transactions"), all.len() as f64);
    Ok(())
}

/// A table of two maps, without a rule or a comment: frontends, and endpoints.
fn two_maps(shape: &Shape) -> Vec<NftBatch> {
    let mut batch = Batch::new(Family::V4, TABLE);
    batch.add_table("");
    for set in [Set::Services, Set::Endpoints] {
        batch.add_set(&set.spec());
    }
    let mut batches = vec![batch.finish()];
    let services: Vec<usize> = (0..shape.services).collect();
    for chunk in services.chunks((STEP / (shape.endpoints + 1)).max(1)) {
        let mut batch = Batch::new(Family::V4, TABLE);
        chunk.iter().for_each(|n| frontend(*n, shape).add(&mut batch, ""));
        for (service, index) in chunk.iter().flat_map(|n| (0..shape.endpoints).map(|e| (*n, e))) {
            endpoint(service, index).add(&mut batch, "");
        }
        batches.push(batch.finish());
    }
    batches
}

fn key(service: usize) -> Key {
    Key::empty().address(cluster_ip(service, Family::V4)).protocol(Protocol::Tcp).port(80)
}

fn frontend(service: usize, shape: &Shape) -> Element {
    Element::new(Set::Services, key(service), Gives::Number(shape.endpoints as u32))
}

fn endpoint(service: usize, index: usize) -> Element {
    let address = crate::cluster::endpoint(service, index, Family::V4);
    let socket = socket_bytes(&Socket { address, port: 8080 });
    Element::new(Set::Endpoints, key(service).number(index as u32), Gives::Bytes(socket))
}
