//! The list of what is modelled and what is refused (MODEL.md) is true: each line's test is there, each refusal quotes.

mod support;

use sim::Host;
use support::bytes::{Batch, CREATE, attr, be32, element, expr, msg, nest, text};

#[test]
fn every_line_of_the_model_has_its_test() {
    let list = include_str!("../MODEL.md");
    let (modelled, _) = list.split_once("# What is not modelled").expect("the list has two parts");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/");
    for line in modelled.lines().filter(|line| line.starts_with('*')) {
        let names: Vec<&str> = line
            .split('`')
            .filter(|part| part.contains("::") && !part.contains(' ') && part.len() > 8)
            .collect();
        assert!(!names.is_empty(), "no test named: {line}");
        for (file, test) in names.iter().filter_map(|name| name.split_once("::")) {
            let text = std::fs::read_to_string(format!("{folder}{file}.rs")).unwrap_or_default();
            assert!(text.contains(&format!("fn {test}()")), "no test {file}::{test}");
        }
    }
}

/// What the simulator says to a batch, in a table t with a base chain b and a set s.
fn said(write: impl FnOnce(&mut Batch) -> &mut Batch) -> String {
    let mut batch = Batch::default();
    batch.table("t").base("t", "b", ("filter", 1, 0)).set(("t", "s"), 0, (4, None), &[]);
    write(&mut batch);
    let error = Host::new(1).nft_batch(&batch.end()).expect_err("it must be refused");
    format!("{error}")
}

#[test]
fn every_refusal_of_the_model_quotes_what_it_refuses() {
    let foreign = {
        let mut bytes = {
            let mut batch = Batch::default();
            batch.table("t");
            batch.end()
        };
        bytes[36] = 5;
        Host::new(1).nft_batch(&bytes).expect_err("a netdev table").to_string()
    };
    let rule = |one: Vec<u8>| said(|b| b.rule("t", "b", &[one]));
    let answers = [
        foreign,
        said(|b| b.put(18, CREATE, &[])),
        rule(expr::expr("osf", &[])),
        rule(expr::payload(0, 0, 6, 1)),
        rule(expr::expr("notrack", &[])),
        rule(expr::expr("bitwise", &[be32(6, 1)])),
        said(|b| b.set(("t", "x"), 0, (4, None), &[nest(17, &[])])),
        said(|b| {
            b.elements(("t", "s"), msg::NEWSETELEM, CREATE, &[element(&[1; 4], &[be32(3, 2)])])
        }),
        rule(expr::expr(
            "immediate",
            &[be32(1, 0), nest(2, &[nest(2, &[be32(1, -3i32 as u32), be32(3, 1)])])],
        )),
        said(|b| {
            b.rule(
                "t",
                "b",
                &[
                    expr::immediate(1, &[1; 4]),
                    expr::expr("nat", &[be32(1, 1), be32(2, 2), be32(3, 1), be32(7, 64)]),
                ],
            )
        }),
        rule(expr::ct(17, None, 1)),
    ];
    let list = include_str!("../MODEL.md");
    let quoted: Vec<&str> =
        list.split("`refused: ").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert_eq!(quoted.len(), answers.len());
    for (quote, answer) in quoted.iter().zip(&answers) {
        assert!(answer.contains(quote), "\"{quote}\" is not in: {answer}");
    }
    let _ = (attr(1, &[]), text(1, "a"));
}
