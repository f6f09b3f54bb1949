//! The table our program is planned to write, for any number of services: the simulator must run it, and fast.

use super::bytes::{Batch, attr, be32, element, expr, msg, value, verdict};

const T: &str = "kube-proxy";
const REG: u32 = 8; // NFT_REG32_00
const TCP: [u8; 4] = [6, 0, 0, 0];

/// Address of service `n`: 10.96.x.y.
pub fn service(n: u32) -> [u8; 4] {
    (u32::from_be_bytes([10, 96, 0, 0]) + n).to_be_bytes()
}

/// Address of endpoint `e` of service `n`: 10.128.x.y and on.
pub fn endpoint(n: u32, e: u32) -> [u8; 4] {
    (u32::from_be_bytes([10, 128, 0, 0]) + n * 16 + e).to_be_bytes()
}

fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// destination . protocol . port into NFT_REG32_00..02.
fn frontend() -> Vec<Vec<u8>> {
    vec![expr::payload(1, 16, 4, REG), expr::meta(16, REG + 1), expr::payload(2, 2, 2, REG + 2)]
}

/// Tables, maps and chains; treatments for 1 to `most` endpoints.
pub fn skeleton(most: u32) -> Batch {
    let mut batch = Batch::default();

    batch.table(T);
    batch.set((T, "services"), 0x8, (12, Some((19, 4))), &[]);
    batch.set((T, "treatments"), 0x8, (4, Some((0xffff_ff00, 0))), &[]);
    batch.set((T, "endpoints"), 0x8, (16, Some((0, 8))), &[]);
    batch.set((T, "blocked"), 0x8, (12, Some((0xffff_ff00, 0))), &[]);
    batch.set((T, "hairpin"), 0, (8, None), &[]);
    batch.chain(T, "reject");
    batch.rule(T, "reject", &[expr::expr("reject", &[be32(1, 2), attr(2, &[1])])]);
    for count in 1..=most {
        let name = format!("n{count}");
        batch.chain(T, &name);
        batch.rule(
            T,
            &name,
            &[
                expr::payload(1, 12, 4, 1),
                expr::bitwise(1, 1, &[255, 255, 0, 0], &[0; 4]),
                expr::cmp(1, 1, &[10, 128, 0, 0]),
                expr::meta(3, 1),
                expr::bitwise(1, 1, &(!0x4000u32).to_ne_bytes(), &0x4000u32.to_ne_bytes()),
                expr::set_mark(1),
            ],
        );
        let mut dnat = frontend();
        dnat.extend([
            expr::numgen_random(count, REG + 3),
            expr::lookup("endpoints", REG, Some(REG)),
            expr::dnat4(REG, REG + 1),
        ]);
        batch.rule(T, &name, &dnat);
        let goto = verdict(2, -4, Some(&name));
        batch.elements(
            (T, "treatments"),
            msg::NEWSETELEM,
            0x400,
            &[element(&count.to_ne_bytes(), &[goto])],
        );
    }
    for (name, at) in [("pre", ("nat", 0, -100)), ("out", ("nat", 3, -100))] {
        batch.base(T, name, at);
        let mut rule = frontend();
        rule.extend([
            expr::lookup("services", REG, Some(REG)),
            expr::lookup("treatments", REG, Some(0)),
        ]);
        batch.rule(T, name, &rule);
    }
    batch.base(T, "guard", ("filter", 0, -110));
    let mut rule = vec![
        expr::ct(0, None, 1),
        expr::bitwise(1, 1, &8u32.to_ne_bytes(), &[0; 4]),
        expr::cmp(1, 1, &[0; 4]),
    ];
    rule.extend(frontend());
    rule.push(expr::lookup("blocked", REG, Some(0)));
    batch.rule(T, "guard", &rule);
    post(&mut batch);
    batch
}

fn post(batch: &mut Batch) {
    batch.base(T, "post", ("nat", 4, 100));
    let dnat = [
        expr::ct(2, None, 1),
        expr::bitwise(1, 1, &32u32.to_ne_bytes(), &[0; 4]),
        expr::cmp(1, 1, &[0; 4]),
    ];
    let ends = [
        expr::payload(1, 12, 4, REG),
        expr::payload(1, 16, 4, REG + 1),
        expr::lookup("hairpin", REG, None),
        expr::masquerade(0x10),
    ];
    batch.rule(T, "post", &[dnat.to_vec(), ends.to_vec()].concat());
    let marked = [
        expr::meta(3, 1),
        expr::bitwise(1, 1, &0x4000u32.to_ne_bytes(), &[0; 4]),
        expr::cmp(1, 1, &[0; 4]),
        expr::masquerade(0x10),
    ];
    batch.rule(T, "post", &marked);
}

/// The elements of services `from..to`, each with `count` endpoints.
pub fn elements(batch: &mut Batch, services: std::ops::Range<u32>, count: u32) {
    let key = |n: u32| [service(n), TCP, port(80)].concat();
    for n in services {
        batch.elements(
            (T, "services"),
            msg::NEWSETELEM,
            0x400,
            &[element(&key(n), &[value(2, &count.to_ne_bytes())])],
        );
        let all: Vec<Vec<u8>> = (0..count)
            .map(|e| {
                let data = [endpoint(n, e), port(8080)].concat();
                element(&[key(n), e.to_ne_bytes().to_vec()].concat(), &[value(2, &data)])
            })
            .collect();
        batch.elements((T, "endpoints"), msg::NEWSETELEM, 0x400, &all);
    }
}
