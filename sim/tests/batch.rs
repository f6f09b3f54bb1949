//! Batches: what they change, what they refuse as Linux 6.18 refuses it, and that a refused batch leaves no trace.
//! Every errno here was given by a real kernel for the same bytes (tests/fixtures/send.py writes them to a socket).

mod support;

use proptest::prelude::*;
use sim::{Errno, Family, Host};
use support::bytes::{
    APPEND, Batch, CREATE, EXCL, REPLACE, attr, be32, be64, element, expr, msg, nest, text, value,
    verdict,
};
use support::captured;

/// A table with a map of verdicts, a plain map, a chain z used by both an element and a rule.
fn start() -> Host {
    let mut host = Host::new(1);
    host.nft_batch(&start_batch().end()).unwrap_or_else(|error| panic!("{error}"));
    host
}

fn start_batch() -> Batch {
    let mut batch = Batch::default();
    batch.table("t").chain("t", "z").base("t", "b", ("filter", 1, 0));
    batch.set(("t", "v"), 8, (4, Some((0xffff_ff00, 0))), &[]);
    batch.set(("t", "m"), 8, (4, Some((0, 4))), &[nest(9, &[be32(1, 2)])]);
    batch.elements(
        ("t", "v"),
        msg::NEWSETELEM,
        CREATE,
        &[element(&[1; 4], &[verdict(2, -3, Some("z"))])],
    );
    batch.elements(("t", "m"), msg::NEWSETELEM, CREATE, &[element(&[1; 4], &[value(2, &[1; 4])])]);
    batch.rule("t", "b", &[expr::payload(1, 12, 4, 1), expr::lookup("v", 1, Some(0))]);
    batch
}

fn refused(write: impl FnOnce(&mut Batch) -> &mut Batch) -> Errno {
    let mut host = start();
    let mut batch = Batch::default();
    batch.chain("t", "new").set(("t", "more"), 0, (4, None), &[]);
    write(&mut batch);
    let (before, generation) = (picture(&host), host.nft_generation());
    let error = host.nft_batch(&batch.end()).expect_err("it must be refused");
    dump(&batch.end(), error.errno as i32);
    assert_eq!(
        (picture(&host), host.nft_generation()),
        (before, generation),
        "a refused batch leaves no trace: {error}"
    );
    error.errno
}

/// With SIM_DUMP=<folder> the batches are written there, for tests/fixtures/send.py to put to a real kernel.
fn dump(bytes: &[u8], errno: i32) {
    let Ok(folder) = std::env::var("SIM_DUMP") else { return };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let number = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    let text = format!("{}\n{}\n{errno}\n", hex(&start_batch().end()), hex(bytes));
    std::fs::write(format!("{folder}/{number:03}"), text)
        .expect("SIM_DUMP names a folder that can be written");
}

/// Everything there is to read.
fn picture(host: &Host) -> String {
    let mut lines = Vec::new();
    for table in host.nft().tables() {
        lines.push(format!("{:?} {} {:?}", table.family(), table.name(), table.userdata()));
        for chain in table.chains() {
            let rules: Vec<_> = chain
                .rules()
                .iter()
                .map(|rule| (rule.handle(), rule.expressions().to_vec()))
                .collect();
            lines.push(format!(
                "{} {} {:?} {} {rules:?}",
                chain.name(),
                chain.handle(),
                chain.base(),
                chain.uses()
            ));
        }
        for set in table.sets() {
            let elements: Vec<_> = set
                .elements()
                .iter()
                .map(|one| {
                    format!(
                        "{:?} {:?} {:?} {:?}",
                        one.key(),
                        one.key_end(),
                        one.data(),
                        one.timeout()
                    )
                })
                .collect();
            lines.push(format!(
                "{} {} {:?} {elements:?}",
                set.name(),
                set.handle(),
                set.definition()
            ));
        }
    }
    lines.join("\n")
}

#[test]
fn errors_are_the_kernels() {
    let name = |table: &str| vec![text(1, table)];
    assert_eq!(refused(|b| b.put(msg::DELTABLE, 0, &name("absent"))), Errno::ENOENT);
    assert_eq!(refused(|b| b.put(msg::NEWTABLE, CREATE | EXCL, &name("t"))), Errno::EEXIST);
    assert_eq!(refused(|b| b.put(msg::DELCHAIN, 0, &[text(1, "t"), text(3, "z")])), Errno::EBUSY);
    assert_eq!(refused(|b| b.put(msg::DELSET, 0, &[text(1, "t"), text(2, "v")])), Errno::EBUSY);
    assert_eq!(
        refused(|b| b.put(msg::DELRULE, 0, &[text(1, "t"), text(2, "b"), be64(3, 999)])),
        Errno::ENOENT
    );
    assert_eq!(refused(|b| b.rule("t", "b", &[expr::verdict(-3, Some("absent"))])), Errno::ENOENT);
    assert_eq!(refused(|b| b.rule("t", "z", &[expr::verdict(-3, Some("b"))])), Errno::EOPNOTSUPP);
    assert_eq!(refused(|b| b.rule("t", "z", &[expr::verdict(-3, Some("z"))])), Errno::EMLINK);
    assert_eq!(refused(|b| b.rule("t", "b", &[expr::masquerade(0)])), Errno::EOPNOTSUPP);
    assert_eq!(refused(|b| b.rule("t", "b", &[expr::lookup("absent", 1, None)])), Errno::ENOENT);
    assert_eq!(refused(|b| b.rule("t", "b", &[expr::cmp(1, 0, &[1; 4])])), Errno::ENODATA);
    assert_eq!(
        refused(|b| b.put(
            msg::NEWRULE,
            CREATE | REPLACE,
            &[text(1, "t"), text(2, "b"), nest(4, &[])]
        )),
        Errno::EINVAL
    );
    assert_eq!(refused(|b| b.base("t", "n", ("nat", 0, -200))), Errno::EOPNOTSUPP);
    assert_eq!(refused(|b| b.base("t", "b", ("filter", 1, 5))), Errno::EOPNOTSUPP);
    assert_eq!(refused(|b| b.base("t", "b", ("nat", 1, 0))), Errno::EEXIST);
    assert_eq!(refused(|b| b.base("t", "z", ("filter", 1, 0))), Errno::EOPNOTSUPP);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of errors")]
fn errors_of_elements_are_the_kernels() {
    let m = ("t", "m");
    let put = |key: u8, data: u8| element(&[key; 4], &[value(2, &[data; 4])]);
    assert_eq!(refused(|b| b.elements(m, msg::NEWSETELEM, CREATE, &[put(1, 2)])), Errno::EEXIST);
    assert_eq!(
        refused(|b| b.elements(m, msg::NEWSETELEM, CREATE | EXCL, &[put(1, 1)])),
        Errno::EEXIST
    );
    assert_eq!(
        refused(|b| b.elements(m, msg::NEWSETELEM, CREATE, &[put(2, 1), put(3, 1)])),
        Errno::ENFILE
    );
    assert_eq!(
        refused(|b| b.elements(m, msg::DELSETELEM, 0, &[element(&[9; 4], &[])])),
        Errno::ENOENT
    );
    assert_eq!(
        refused(|b| b.elements(m, msg::NEWSETELEM, CREATE, &[element(&[9; 4], &[])])),
        Errno::EINVAL
    );
    assert_eq!(
        refused(|b| b.elements(
            m,
            msg::NEWSETELEM,
            CREATE,
            &[element(&[9; 3], &[value(2, &[1; 4])])]
        )),
        Errno::EINVAL
    );
    let plain = |flags: u32, more: Vec<Vec<u8>>| {
        move |b: &mut Batch| {
            b.set(("t", "s"), flags, (4, None), &more);
        }
    };
    let set = |flags: u32, more: Vec<Vec<u8>>| {
        refused(|b| {
            plain(flags, more)(b);
            b
        })
    };
    assert_eq!(set(0x80, vec![]), Errno::EINVAL, "concatenation without fields");
    assert_eq!(set(0, vec![be64(11, 1000)]), Errno::EINVAL, "timeout without its flag");
    assert_eq!(set(0, vec![be32(6, 0), be32(7, 4)]), Errno::EINVAL, "data in a set");
    assert_eq!(set(8, vec![]), Errno::EINVAL, "a map without data");
    assert_eq!(set(1, vec![]), Errno::EINVAL, "anonymous and used by nothing");
    let interval = |key: u8, end: bool| element(&[10, key, 0, 0], &[be32(3, u32::from(end))]);
    let intervals = |elements: &[Vec<u8>]| {
        refused(|b| {
            b.set(("t", "i"), 4, (4, None), &[]).elements(
                ("t", "i"),
                msg::NEWSETELEM,
                CREATE,
                elements,
            )
        })
    };
    assert_eq!(
        intervals(&[interval(0, false), interval(9, true), interval(3, false), interval(4, true)]),
        Errno::EEXIST
    );
    let fields = nest(9, &[nest(2, &[nest(1, &[be32(1, 4)]), nest(1, &[be32(1, 2)])])]);
    let range = |low: u8, high: u8| {
        element(&[10, low, 0, 0, 0, 80, 0, 0], &[value(10, &[10, high, 255, 255, 0, 80, 0, 0])])
    };
    let ranges = |elements: &[Vec<u8>]| {
        refused(|b| {
            b.set(("t", "c"), 0x84, (8, None), std::slice::from_ref(&fields)).elements(
                ("t", "c"),
                msg::NEWSETELEM,
                CREATE,
                elements,
            )
        })
    };
    assert_eq!(ranges(&[range(0, 9), range(3, 4)]), Errno::EEXIST);
    assert_eq!(
        refused(|b| b.elements(("t", "absent"), msg::NEWSETELEM, CREATE, &[put(1, 1)])),
        Errno::ENOENT
    );
    let mut host = start();
    let mut same = Batch::default();
    same.elements(m, msg::NEWSETELEM, CREATE, &[put(1, 1)]);
    same.elements(m, msg::DESTROYSETELEM, 0, &[element(&[9; 4], &[])]);
    let generation = host.nft_generation();
    host.nft_batch(&same.end()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.nft_generation(), generation, "nothing changed");
}

#[test]
fn what_a_batch_deletes_it_may_make_again() {
    let mut host = start();
    let mut batch = Batch::default();
    batch.put(msg::DELRULE, 0, &[text(1, "t"), text(2, "b")]);
    batch.put(msg::DELSETELEM, 0, &[text(1, "t"), text(2, "v")]);
    batch.put(msg::DELCHAIN, 0, &[text(1, "t"), text(3, "z")]);
    batch.chain("t", "z").rule("t", "b", &[expr::verdict(-3, Some("z"))]);
    host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    let table = host.nft().table(Family::Inet, "t").expect("it was made");
    assert_eq!(table.chain("z").expect("it was made again").uses(), 1);
    let mut gone = Batch::default();
    gone.put(msg::DELTABLE, 0, &[text(1, "t")]).put(msg::DESTROYTABLE, 0, &[text(1, "t")]);
    host.nft_batch(&gone.end()).unwrap_or_else(|error| panic!("{error}"));
    assert!(host.nft().tables().is_empty());
}

#[test]
fn rules_go_where_they_are_told() {
    let mut host = start();
    let handles = |host: &Host| -> Vec<u64> {
        let table = host.nft().table(Family::Inet, "t").expect("it was made");
        table.chain("z").expect("it was made").rules().iter().map(|rule| rule.handle()).collect()
    };
    let rule = |flags: u16, more: Vec<u8>| {
        let mut batch = Batch::default();
        batch.put(
            msg::NEWRULE,
            CREATE | flags,
            &[text(1, "t"), text(2, "z"), nest(4, &[expr::verdict(1, None)]), more],
        );
        batch.end()
    };
    for (flags, more) in [(APPEND, vec![]), (APPEND, vec![]), (0, vec![])] {
        host.nft_batch(&rule(flags, more)).unwrap_or_else(|error| panic!("{error}"));
    }
    let [third, first, second] = handles(&host)[..] else { panic!("three rules expected") };
    assert!(first < second && second < third);
    host.nft_batch(&rule(APPEND, be64(6, first))).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(handles(&host), [third, first, third + 1, second]);
    let mut replace = Batch::default();
    replace.put(msg::NEWRULE, REPLACE, &[text(1, "t"), text(2, "z"), be64(3, first), nest(4, &[])]);
    host.nft_batch(&replace.end()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(handles(&host), [third, first, third + 1, second]);
}

#[test]
fn an_unknown_expression_is_quoted() {
    let mut host = start();
    let mut batch = Batch::default();
    batch.rule("t", "b", &[expr::expr("osf", &[])]);
    let error = host.nft_batch(&batch.end()).expect_err("it is not modelled");
    assert_eq!((error.errno, error.message), (Errno::EOPNOTSUPP, "NEWRULE"));
    assert!(error.detail.contains("\"osf\""), "{error}");
    let bytes = batch.end();
    assert_eq!(&bytes[error.offset..error.offset + 3], b"osf");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Bytes broken anywhere: never a panic, and what is refused leaves no trace.
    #[test]
    fn broken_batches_are_refused_whole(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<Option<prop::sample::Index>>()) {
        let mut bytes = captured(include_str!("fixtures/services.hex")).remove(0);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut host = start();
        let before = picture(&host);
        match host.nft_batch(&bytes) {
            Ok(()) => { host.outcomes(&support::tcp("10.1.0.2:40000", "10.96.0.30:80")); }
            Err(_) => prop_assert_eq!(picture(&host), before),
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut host = Host::new(1);
        let _ = host.nft_batch(&bytes);
        let wrapped = { let mut batch = Batch::default(); batch.table("t").put(6, CREATE, &[text(1, "t"), attr(4, &bytes)]); batch.end() };
        let _ = host.nft_batch(&wrapped);
    }
}
