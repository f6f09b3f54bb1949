//! Runs a base chain over a packet: rules in order, jumps and returns, up to a verdict.
//! Facts from nft_do_chain (net/netfilter/nf_tables_core.c). It must never know the order of hooks; that is `path`.
//! Tests: tests/six.rs, tests/nft_files.rs, tests/hooks.rs.

use super::dynset::Update;
use super::expr::{Expr, RejectWith};
use super::print;
use super::set::Verdict;
use super::store::{Rule, Store, Table};
use crate::facilities::Facilities;
use crate::journey::{Sink, Step};
use crate::skb::{End, Env, Place, Skb};
use crate::xtables::part::{self, Part, PartAct as Act};

/// What a rule makes of a packet.
pub(super) enum Flow {
    /// The next expression.
    Next,
    /// The next rule.
    Break,
    Verdict(Verdict),
    Reject(RejectWith),
    /// A set is to be changed; then the rule goes on.
    Update(Update, bool),
}

const STACK: usize = 16;

struct Run {
    table: u32,
    chain: u32,
    index: usize,
    expr: usize,
    stack: [(u32, usize); STACK],
    depth: usize,
    registers: [u8; 64],
}

/// Runs one base chain: (slot of the table, slot of the chain).
pub(crate) fn run<S: Sink>(
    (store, facilities): (&mut Store, &mut Facilities),
    env: &mut Env<'_, S>,
    skb: &mut Skb,
    base: (u32, u32),
) -> End {
    let mut run = Run {
        table: base.0,
        chain: base.1,
        index: 0,
        expr: 0,
        stack: [(0, 0); STACK],
        depth: 0,
        registers: [0; 64],
    };
    loop {
        let Some(table) = store.tables.get(run.table) else { return End::Accept };
        let Some(chain) = table.chains.get(run.chain) else { return End::Accept };
        let Some(rule) = chain.rules.get(run.index) else {
            if !run.back() {
                return policy(table, base.1, env);
            }
            continue;
        };
        let flow = step(&mut run, (table, rule), facilities, (env, skb));
        let here = |rule: &Rule| Place {
            hook: env.hook,
            table: table.name.clone(),
            chain: chain.name.clone(),
            rule: Some(rule.handle),
        };
        match flow {
            Flow::Next | Flow::Break => run.next_rule(),
            Flow::Reject(with) => return End::Reject(with, here(rule)),
            Flow::Verdict(Verdict::Accept) => return End::Accept,
            Flow::Verdict(Verdict::Drop) => return End::Drop(here(rule)),
            Flow::Verdict(Verdict::Jump(target)) => {
                if !run.enter(target) {
                    return End::Drop(here(rule));
                }
            }
            Flow::Verdict(Verdict::Goto(target)) => {
                (run.chain, run.index, run.expr) = (target, 0, 0)
            }
            Flow::Verdict(Verdict::Return) => {
                if !run.back() {
                    return policy(table, base.1, env);
                }
            }
            // A map that says continue lets the rule itself go on (nft_do_chain).
            Flow::Verdict(Verdict::Continue) => {}
            Flow::Verdict(Verdict::Break) => run.next_rule(),
            Flow::Update(update, inverted) => {
                let table = run.table;
                if store.update(table, update, env.now) == inverted {
                    run.next_rule();
                }
            }
        }
    }
}

impl Run {
    fn next_rule(&mut self) {
        self.index += 1;
        self.expr = 0;
    }

    /// Into a chain, to come back. False: too deep, which `verify` has refused.
    fn enter(&mut self, target: u32) -> bool {
        let Some(slot) = self.stack.get_mut(self.depth) else { return false };
        *slot = (self.chain, self.index + 1);
        self.depth += 1;
        (self.chain, self.index, self.expr) = (target, 0, 0);
        true
    }

    /// Back to where the last jump was; false at the bottom.
    fn back(&mut self) -> bool {
        let Some(depth) = self.depth.checked_sub(1) else { return false };
        self.depth = depth;
        (self.chain, self.index) = self.stack[depth];
        self.expr = 0;
        true
    }
}

fn policy<S: Sink>(table: &Table, chain: u32, env: &mut Env<'_, S>) -> End {
    let Some(chain) = table.chains.get(chain) else { return End::Accept };
    let accepts = chain.base.is_none_or(|base| base.policy_accepts);
    env.sink.note(|| Step::Verdict(format!("policy {}", if accepts { "accept" } else { "drop" })));
    if accepts {
        return End::Accept;
    }
    End::Drop(Place {
        hook: env.hook,
        table: table.name.clone(),
        chain: chain.name.clone(),
        rule: None,
    })
}

/// Runs a rule from the expression it stands at.
fn step<S: Sink>(
    run: &mut Run,
    (table, rule): (&Table, &Rule),
    facilities: &mut Facilities,
    with: (&mut Env<'_, S>, &mut Skb),
) -> Flow {
    let (env, skb) = with;
    if run.expr == 0 {
        env.sink.note(|| Step::Rule {
            chain: table
                .chains
                .get(run.chain)
                .map(|chain| chain.name.to_string())
                .unwrap_or_default(),
            handle: rule.handle,
            comment: print::comment(rule.userdata.as_deref(), 0),
        });
    }
    while let Some(expr) = rule.exprs.get(run.expr) {
        run.expr += 1;
        let flow = match expr {
            Expr::XtMatch(part) => fits(part, facilities, (env, skb)),
            Expr::XtTarget(part) => act(part, env, skb),
            _ => evaluate(expr, (table, &mut run.registers), env, skb),
        };
        match flow {
            Flow::Next => {}
            Flow::Break => {
                env.sink.note(|| Step::NoMatch);
                return Flow::Break;
            }
            Flow::Verdict(verdict) => {
                skb.accepted |=
                    verdict == Verdict::Accept && !matches!(expr, Expr::Nat(_) | Expr::XtTarget(_));
                env.sink.note(|| Step::Verdict(print::verdict(table, verdict)));
                return Flow::Verdict(verdict);
            }
            Flow::Reject(with) => {
                env.sink.note(|| Step::Verdict(format!("reject {with:?}")));
                return Flow::Reject(with);
            }
            update @ Flow::Update(..) => {
                env.sink.note(|| Step::Verdict("update a set".into()));
                return update;
            }
        }
    }
    env.sink.note(|| Step::Verdict("continue".into()));
    Flow::Next
}

/// A match of iptables (nft_match_eval).
fn fits<S: Sink>(
    part: &Part,
    facilities: &mut Facilities,
    on: (&mut Env<'_, S>, &mut Skb),
) -> Flow {
    let Facilities { xtables, ipsets, .. } = facilities;
    if xtables.fits(part, ipsets, on) { Flow::Next } else { Flow::Break }
}

/// A target of iptables (nft_target_eval_xt).
fn act<S: Sink>(part: &Part, env: &mut Env<'_, S>, skb: &mut Skb) -> Flow {
    match part::act(part, env, skb) {
        Act::Continue => Flow::Next,
        Act::Accept => Flow::Verdict(Verdict::Accept),
        Act::Drop => Flow::Verdict(Verdict::Drop),
        // Extensions never jump; a chain's name is not read as one.
        Act::Return | Act::Jump(_) | Act::Goto(_) => Flow::Verdict(Verdict::Return),
        Act::Reject(with) => Flow::Reject(with),
    }
}

#[inline]
fn evaluate<S: Sink>(
    expr: &Expr,
    at: (&Table, &mut [u8; 64]),
    env: &mut Env<'_, S>,
    skb: &mut Skb,
) -> Flow {
    let (table, registers) = at;
    match expr {
        Expr::Lookup(lookup) => super::matching::lookup(lookup, (table, registers), env),
        Expr::Verdict(verdict) => Flow::Verdict(*verdict),
        Expr::Nat(nat) => super::translate::bind(nat, registers, env, skb),
        Expr::Reject(with) => Flow::Reject(*with),
        Expr::Dynset(dynset) => match Update::read(dynset, table, registers) {
            Some(update) => Flow::Update(update, dynset.inverted),
            None => Flow::Break,
        },
        Expr::Counter { .. } | Expr::Limit(_) | Expr::Log { .. } => {
            super::matching::count(expr, env, skb)
        }
        _ => super::matching::load(expr, registers, env, skb),
    }
}
