//! Everything at once: from events to a programmed kernel, on a kernel that does nothing (what is
//! left is tracking, compiling and rendering) and on the simulated one; and the rendering alone.

use std::collections::BTreeSet;
use std::hint::black_box;

use benches::cluster::{Cluster, Mix, Shape, feed};
use benches::sink::Sink;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kube_proxy::backend::Options;
use kube_proxy::backend::nftables::plan::{Applied, Plan};
use kube_proxy::backend::program::compile;
use kube_proxy::backend::ruleset::Ruleset;
use kube_proxy::kernel::Kernel;
use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::model::Family;
use kube_proxy::sync::Proxy;

const SIZES: [usize; 3] = [1_000, 10_000, 50_000];

fn cluster(services: usize) -> Cluster {
    let families = vec![Family::V4];
    Cluster::new(Shape { services, endpoints: 10, families, mix: Mix::Plain })
}

fn everything(kernel: Box<dyn Kernel + Send>, cluster: &Cluster) -> Proxy {
    let mut proxy = Proxy::new(kernel, cluster.options());
    feed(&mut proxy, cluster);
    black_box(proxy.sync().expect("these kernels refuse nothing"));
    proxy
}

fn first_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("first sync of N x 10 endpoints");
    group.sample_size(10);
    for services in SIZES {
        let cluster = cluster(services);
        group.throughput(Throughput::Elements(services as u64 * 10));
        group.bench_with_input(BenchmarkId::new("no kernel", services), &cluster, |b, cluster| {
            b.iter_with_large_drop(|| everything(Box::new(Sink::default()), cluster));
        });
        group.bench_with_input(BenchmarkId::new("simulated", services), &cluster, |b, cluster| {
            let kernel = || Box::new(Simulated::new(sim::Host::new(1)));
            b.iter_with_large_drop(|| everything(kernel(), cluster));
        });
    }
    group.finish();
}

/// What is wanted of a cluster.
fn ruleset(cluster: &Cluster) -> Ruleset {
    let mut proxy = Proxy::new(Box::new(Sink::default()), cluster.options());
    feed(&mut proxy, cluster);
    let known = proxy.cluster();
    let mut ruleset = Ruleset::default();
    for service in known.services() {
        ruleset.replace(&service.name, compile(known, service, Family::V4));
    }
    ruleset
}

fn render(c: &mut Criterion) {
    let mut group = c.benchmark_group("render N x 10 endpoints");
    group.sample_size(10);
    for services in SIZES {
        let (ruleset, options) = (ruleset(&cluster(services)), Options::default());
        let render = |mut applied: Applied| {
            let mut plan = Plan::new(&mut applied, (&ruleset, &options), BTreeSet::new());
            let mut bytes = 0;
            while let Some(batch) = plan.next_batch() {
                bytes += batch.bytes.len();
            }
            (bytes, applied)
        };
        let nothing = || Applied::absent(Family::V4);
        group.throughput(Throughput::Bytes(render(nothing()).0 as u64));
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(nothing, render, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, first_sync, render);
criterion_main!(benches);
