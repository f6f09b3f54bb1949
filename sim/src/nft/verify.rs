//! What the kernel checks at the end of a batch: jumps that go too deep or in circles, expressions in the wrong chains.
//! Facts from nft_chain_validate (nf_tables_api.c) and the validate functions of nft_nat.c, nft_masq.c, nft_redir.c,
//! nft_reject.c, nft_fib.c. It must never change anything. Tests: tests/batch.rs.

use super::error::Errno;
use super::expr::{Expr, FibResult, Nat, NatKind, fib_flags};
use super::store::{BaseChain, ChainType, Hook, Table};
use crate::hash::FastMap;

/// NFT_JUMP_STACK_SIZE
const DEEPEST: usize = 16;

struct Walk<'t> {
    table: &'t Table,
    base: BaseChain,
    /// The deepest level each chain was already checked at.
    seen: FastMap<u32, usize>,
}

/// Checks every base chain of a table and all that can be reached from it.
pub(crate) fn check(table: &Table) -> Result<(), (Errno, String)> {
    for (slot, chain) in table.chains.iter() {
        if let Some(base) = chain.base {
            Walk { table, base, seen: FastMap::default() }.chain(slot, 0)?;
        }
    }
    Ok(())
}

impl Walk<'_> {
    fn chain(&mut self, slot: u32, level: usize) -> Result<(), (Errno, String)> {
        let Some(chain) = self.table.chains.get(slot) else { return Ok(()) };
        if level == DEEPEST {
            return Err((
                Errno::EMLINK,
                format!(
                    "chain \"{}\" is reached after {DEEPEST} jumps (or jumps in a circle)",
                    chain.name
                ),
            ));
        }
        if self.seen.get(&slot).is_some_and(|known| *known >= level) {
            return Ok(());
        }
        self.seen.insert(slot, level);
        for expr in chain.rules.iter().flat_map(|rule| &rule.exprs) {
            self.place(expr).map_err(|detail| {
                (
                    Errno::EOPNOTSUPP,
                    format!(
                        "{detail}, reached from {} chain in {}",
                        self.type_name(),
                        self.base.hook.name()
                    ),
                )
            })?;
            if let Some(target) = expr.target() {
                self.chain(target, level + 1)?;
            }
            let Expr::Lookup(lookup) = expr else { continue };
            let Some(set) = self.table.sets.get(lookup.set) else { continue };
            let mut targets: Vec<u32> = set.targets.keys().copied().collect();
            targets.sort_unstable();
            targets.into_iter().try_for_each(|target| self.chain(target, level + 1))?;
        }
        Ok(())
    }

    fn type_name(&self) -> &'static str {
        match self.base.chain_type {
            ChainType::Filter => "a filter",
            ChainType::Nat => "a nat",
            ChainType::Route => "a route",
        }
    }

    /// May the expression stand in a chain of this type and hook?
    fn place(&self, expr: &Expr) -> Result<(), String> {
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let (what, hooks): (_, &[Hook]) = match expr {
            Expr::Nat(Nat { kind, .. }) => {
                if self.base.chain_type != ChainType::Nat {
                    return Err(format!("{kind:?} translation outside a nat chain"));
                }
                match kind {
                    NatKind::Source => ("snat", &[Postrouting, Input]),
                    NatKind::Destination => ("dnat", &[Prerouting, Output]),
                    NatKind::Masquerade => ("masquerade", &[Postrouting]),
                    NatKind::Redirect => ("redirect", &[Prerouting, Output]),
                }
            }
            Expr::Reject(_) => ("reject", &[Input, Forward, Output, Prerouting]),
            Expr::Fib(fib) => match (fib.result, fib.flags) {
                (FibResult::AddressType, flags) if flags & fib_flags::OIF != 0 => {
                    ("fib … oif", &[Output, Postrouting, Forward])
                }
                (FibResult::AddressType, flags) if flags & fib_flags::IIF == 0 => return Ok(()),
                _ => ("fib … iif", &[Prerouting, Input, Forward]),
            },
            Expr::XtMatch(part) | Expr::XtTarget(part) => {
                if part.translates() && self.base.chain_type != ChainType::Nat {
                    return Err(format!("{} outside a nat chain", part.describe()));
                }
                let fits = part.hooks() & (1 << self.base.hook as u8) != 0;
                return fits.then_some(()).ok_or_else(|| part.describe());
            }
            _ => return Ok(()),
        };
        if hooks.contains(&self.base.hook) { Ok(()) } else { Err(format!("{what} at this hook")) }
    }
}
