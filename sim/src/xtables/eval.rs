//! Runs a table's chains over a packet: rules in order, jumps and returns, up to a verdict.
//! Facts from ipt_do_table (net/ipv4/netfilter/ip_tables.c). It must never know the order of hooks.
//! Tests: tests/xtables_packets.rs.

use super::matches::{Look, State};
use super::objects::add;
use super::rule::Rule;
use super::table::{Chain, Table};
use super::targets::Act;
use super::verify::DEEPEST;
use crate::journey::{Sink, Step};
use crate::skb::{End, Place};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The most rules one packet is shown in one table: chains that jump to each other twice a level would take for ever.
const MOST_STEPS: usize = 1 << 22;

/// A chain and the rule to come.
type At = (u32, usize);

static NO_STATE: State = State { one: AtomicU64::new(0), two: AtomicU64::new(0) };

/// Runs a built-in chain.
pub(super) fn run<S: Sink>(
    named: (&Arc<str>, &Table),
    base: u32,
    look: &mut Look<'_, '_, S>,
) -> End {
    let (name, table) = named;
    let net = look.env.net;
    let link_name =
        |index: Option<u32>| index.and_then(|index| net.link(index)).map_or("", |link| &*link.name);
    let links = (link_name(look.skb.in_link), link_name(look.skb.out.map(|hop| hop.link)));
    let mut stack = [(0, 0); DEEPEST];
    let mut depth = 0;
    let mut at: At = (base, 0);
    for _ in 0..MOST_STEPS {
        let Some(chain) = table.chain(at.0) else { return End::Accept };
        let hook = look.env.hook;
        let place = |rule: Option<u64>| Place {
            hook,
            table: name.clone(),
            chain: chain.name.clone(),
            rule,
        };
        if !S::TELLS {
            at.1 = chain.skip(at.1, look.skb.packet.dst);
        }
        let act = match chain.rules.get(at.1) {
            None => Act::Return,
            Some(rule) => try_rule((chain, at.1), rule, links, look),
        };
        let number = at.1 as u64 + 1;
        at.1 += 1;
        match act {
            Act::Continue => {}
            Act::Accept => return End::Accept,
            Act::Drop => return End::Drop(place(Some(number))),
            Act::Reject(with) => return End::Reject(with, place(Some(number))),
            Act::Goto(target) => at = (target, 0),
            Act::Jump(target) => {
                let Some(slot) = stack.get_mut(depth) else {
                    return End::Drop(place(Some(number)));
                };
                *slot = at;
                depth += 1;
                at = (target, 0);
            }
            Act::Return => match depth.checked_sub(1) {
                Some(shallower) => (depth, at) = (shallower, stack[shallower]),
                None => return policy(table, base, (name, look)),
            },
        }
    }
    End::Drop(Place {
        hook: look.env.hook,
        table: name.clone(),
        chain: "more rules than are walked".into(),
        rule: None,
    })
}

fn try_rule<S: Sink>(
    at: (&Chain, usize),
    rule: &Rule,
    links: (&str, &str),
    look: &mut Look<'_, '_, S>,
) -> Act {
    let spec = &rule.spec;
    look.env.sink.note(|| Step::Rule {
        chain: at.0.name.to_string(),
        handle: at.1 as u64 + 1,
        comment: spec.comment(),
    });
    let state = |index: usize| rule.states.get(index).unwrap_or(&NO_STATE);
    let fits = spec.head.fits(&look.skb.packet, links)
        && spec.matches.iter().enumerate().all(|(index, one)| one.fits(look, state(index)));
    if !fits {
        look.env.sink.note(|| Step::NoMatch);
        return Act::Continue;
    }
    if !look.env.dry {
        add(&rule.counters, look.skb.packet.length());
    }
    let mark = look.skb.packet.mark;
    let act = spec.target.act(look.env, look.skb);
    if look.skb.packet.mark != mark {
        let mark = look.skb.packet.mark;
        look.env.sink.note(|| Step::Marked(mark));
    }
    look.skb.accepted |= matches!(act, Act::Accept) && !spec.target.tracks();
    look.env.sink.note(|| Step::Verdict(spec.target.describe()));
    act
}

fn policy<S: Sink>(table: &Table, base: u32, with: (&Arc<str>, &mut Look<'_, '_, S>)) -> End {
    let (name, look) = with;
    let Some((chain, (hook, accepts))) =
        table.chain(base).and_then(|chain| Some((chain, chain.base?)))
    else {
        return End::Accept;
    };
    if !look.env.dry {
        add(&chain.counters, look.skb.packet.length());
    }
    look.env
        .sink
        .note(|| Step::Verdict(format!("policy {}", if accepts { "accept" } else { "drop" })));
    if accepts {
        return End::Accept;
    }
    End::Drop(Place { hook, table: name.clone(), chain: chain.name.clone(), rule: None })
}
