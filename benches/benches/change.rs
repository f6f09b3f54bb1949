//! One endpoint less and one more, from the event to the commit on the simulated kernel: what a
//! change costs must not depend on how large the cluster is.

use std::hint::black_box;

use benches::cluster::{Chance, Cluster, Mix, Shape, feed};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::model::Family;
use kube_proxy::sync::Proxy;
use kube_proxy::sync::examine::Extent;
use kube_proxy::verify::{Looked, Verifier};

/// The same with everything looked at before it is written (`--verify=sample`): what that adds.
fn verified(c: &mut Criterion) {
    let tell = |looked: &Looked| assert_eq!(looked.broken + looked.unknown, 0, "{looked:?}");
    let verifier = || Verifier::new(Extent::Sample, Box::new(tell), Box::new(|_, _| ()));
    changes(c, "one endpoint changed, --verify=sample", |proxy| {
        proxy.examined_by(Box::new(verifier()))
    });
}

fn change(c: &mut Criterion) {
    changes(c, "one endpoint changed, simulated kernel", |proxy| proxy);
}

fn changes(c: &mut Criterion, name: &str, with: impl Fn(Proxy) -> Proxy) {
    let mut group = c.benchmark_group(name);
    for services in [1_000, 10_000, 50_000] {
        let families = vec![Family::V4];
        let cluster = Cluster::new(Shape { services, endpoints: 10, families, mix: Mix::Plain });
        let kernel = Box::new(Simulated::new(sim::Host::new(1)));
        let mut proxy = with(Proxy::new(kernel, cluster.options()));
        feed(&mut proxy, &cluster);
        proxy.sync().expect("the simulator takes what Linux takes");
        let mut chance = Chance::new(7);
        let mut less = false;
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            let next = || {
                less = !less;
                number = if less { chance.below(services) } else { number };
                cluster.slice(number, Family::V4, 0..if less { 9 } else { 10 })
            };
            let changed = |event| {
                proxy.feed(event);
                black_box(proxy.sync().expect("the simulator takes what Linux takes"))
            };
            b.iter_batched(next, changed, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, change, verified);
criterion_main!(benches);
