//! One endpoint less and one more, from the event to the commit on the simulated kernel: what a
//! change costs must not depend on how large the cluster is.

use std::hint::black_box;

use benches::cluster::{Chance, Cluster, Mix, Shape, feed};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::model::Family;
use kube_proxy::sync::Proxy;

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("one endpoint changed, simulated kernel");
    for services in [1_000, 10_000, 50_000] {
        let families = vec![Family::V4];
        let cluster = Cluster::new(Shape { services, endpoints: 10, families, mix: Mix::Plain });
        let kernel = Box::new(Simulated::new(sim::Host::new(1)));
        let mut proxy = Proxy::new(kernel, cluster.options());
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

criterion_group!(benches, change);
criterion_main!(benches);
