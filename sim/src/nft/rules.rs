//! Messages about rules. Facts from nf_tables_newrule and nf_tables_delrule of net/netfilter/nf_tables_api.c.
//! It must never look at packets. Tests: tests/batch.rs.

use super::batch::{Absence, Batch, Message, message_flags};
use super::change::Undo;
use super::error::{Errno, Refusal, Taken};
use super::expr::decode::Decoder;
use super::set::set_flags;
use super::store::{Chain, Rule};
use super::tables::boxed;
use super::wire::{Attrs, Span};

impl Batch<'_> {
    fn chain_named(&mut self, table: u32, name: Span<'_>) -> Taken<u32> {
        let held = self.at(table);
        let wanted = name.name()?;
        held.chain_named(wanted).ok_or_else(|| {
            Refusal::absent(name.at, format!("chain \"{wanted}\" in table \"{}\"", held.name))
        })
    }

    pub(crate) fn new_rule(&mut self, message: &Message<'_>) -> Taken<()> {
        let attrs = message.body.attrs::<12>("a rule")?;
        attrs.refuse(&[(11, "chains by number (NFTA_RULE_CHAIN_ID)")])?;
        let protocol = attrs.get(5).map(compat_protocol).transpose()?.flatten();
        let table = self.table(message, attrs.need(1, "NFTA_RULE_TABLE")?)?;
        let chain = self.chain_named(table, attrs.need(2, "NFTA_RULE_CHAIN")?)?;
        let (index, replaced) = self.place(message, &attrs, (table, chain))?;
        let raw = attrs.get(4).unwrap_or(Span { bytes: &[], at: attrs.at() });
        let exprs = Decoder::new(self.at(table), protocol).rule(raw)?;
        let handle = match replaced {
            Some(handle) => {
                self.remove_rule((table, chain), index);
                handle
            }
            None => self.at(table).next_handle(),
        };
        let jumps = exprs.iter().any(|expr| expr.target().is_some() || needs_checking(expr));
        self.store.names_lists |= exprs.iter().any(|expr| expr.recent_list().is_some());
        let batch_id = attrs.be32(9)?;
        let rule =
            Rule { handle, exprs, raw: raw.bytes.into(), userdata: boxed(attrs.get(7)), batch_id };
        self.at(table).put_rule(chain, index, rule);
        self.log(Undo::RuleAdded(table, chain, index));
        if batch_id.is_some() {
            self.numbered_rules.push((table, chain));
        }
        if jumps {
            self.reshape(table);
        }
        Ok(())
    }

    /// Where a new rule goes, and the handle of the rule it replaces.
    fn place(
        &mut self,
        message: &Message<'_>,
        attrs: &Attrs<'_, 12>,
        at: (u32, u32),
    ) -> Taken<(usize, Option<u64>)> {
        let chain = self.at(at.0).chains.get(at.1).expect("the slot was found by name");
        if let Some(span) = attrs.get(3) {
            let handle = span.be64()?;
            let index = index_of(chain, span, |rule| rule.handle == handle)?;
            return match (message.has(message_flags::EXCL), message.has(message_flags::REPLACE)) {
                (true, _) => Err(Refusal::new(Errno::EEXIST, span.at, "the rule exists")),
                (false, true) => Ok((index, Some(handle))),
                (false, false) => Err(Refusal::new(
                    Errno::EOPNOTSUPP,
                    span.at,
                    "a rule with a handle can only be replaced",
                )),
            };
        }
        if !message.has(message_flags::CREATE) || message.has(message_flags::REPLACE) {
            return Err(Refusal::invalid(attrs.at(), "NLM_F_CREATE expected for a new rule"));
        }
        let beside = match (attrs.get(6), attrs.get(10)) {
            (Some(span), _) => {
                let handle = span.be64()?;
                Some(index_of(chain, span, |rule| rule.handle == handle)?)
            }
            (None, Some(span)) => {
                let id = span.be32()?;
                Some(index_of(chain, span, |rule| rule.batch_id == Some(id))?)
            }
            (None, None) => None,
        };
        Ok((
            match (message.has(message_flags::APPEND), beside) {
                (true, Some(index)) => index + 1,
                (true, None) => chain.rules.len(),
                (false, Some(index)) => index,
                (false, None) => 0,
            },
            None,
        ))
    }

    pub(crate) fn delete_rule(&mut self, message: &Message<'_>, absence: Absence) -> Taken<()> {
        let attrs = message.body.attrs::<12>("a rule")?;
        let found = self.doomed(message, &attrs);
        match found {
            Err(refusal) if refusal.errno == Errno::ENOENT && absence == Absence::Fine => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(doomed) => {
                doomed.into_iter().rev().for_each(|(at, index)| self.remove_rule(at, index));
                Ok(())
            }
        }
    }

    /// The rules a message names: one, all of a chain, or all of a table.
    fn doomed(
        &mut self,
        message: &Message<'_>,
        attrs: &Attrs<'_, 12>,
    ) -> Taken<Vec<((u32, u32), usize)>> {
        let table = self.table(message, attrs.need(1, "NFTA_RULE_TABLE")?)?;
        let Some(name) = attrs.get(2) else {
            let chains = self.at(table).chains.iter();
            return Ok(chains
                .flat_map(|(slot, chain)| {
                    (0..chain.rules.len()).map(move |index| ((table, slot), index))
                })
                .collect());
        };
        let slot = self.chain_named(table, name)?;
        let chain = self.at(table).chains.get(slot).expect("the slot was found by name");
        match (attrs.get(3), attrs.get(9)) {
            (Some(span), _) => {
                let handle = span.be64()?;
                Ok(vec![((table, slot), index_of(chain, span, |rule| rule.handle == handle)?)])
            }
            (None, Some(span)) => {
                let id = span.be32()?;
                Ok(vec![((table, slot), index_of(chain, span, |rule| rule.batch_id == Some(id))?)])
            }
            (None, None) => {
                Ok((0..chain.rules.len()).map(|index| ((table, slot), index)).collect())
            }
        }
    }

    /// Removes a rule with its anonymous sets.
    pub(crate) fn remove_rule(&mut self, at: (u32, u32), index: usize) {
        let Some(rule) = self.at(at.0).take_rule(at.1, index) else { return };
        let sets: Vec<u32> = rule.exprs.iter().filter_map(super::expr::Expr::set).collect();
        self.log(Undo::RuleRemoved(at.0, at.1, index, Box::new(rule)));
        for slot in sets {
            let anonymous =
                |set: &super::set::Set| set.definition.has(set_flags::ANONYMOUS) && set.uses == 0;
            if self.at(at.0).sets.get(slot).is_some_and(anonymous)
                && let Some(set) = self.at(at.0).take_set(slot)
            {
                self.log(Undo::Set(at.0, slot, Some(Box::new(set))));
            }
        }
    }
}

fn index_of(chain: &Chain, span: Span<'_>, wanted: impl Fn(&Rule) -> bool) -> Taken<usize> {
    chain
        .rules
        .iter()
        .position(wanted)
        .ok_or_else(|| Refusal::absent(span.at, format!("such rule in chain \"{}\"", chain.name)))
}

/// The protocol a rule of iptables is for (nft_parse_compat); nothing: all.
fn compat_protocol(span: Span<'_>) -> Taken<Option<u8>> {
    const INVERTED: u32 = 2;
    let attrs = span.attrs::<3>("xtables compatibility")?;
    let protocol = attrs.need(1, "NFTA_RULE_COMPAT_PROTO")?;
    let flags = attrs.need(2, "NFTA_RULE_COMPAT_FLAGS")?;
    match flags.be32()? {
        0 => {}
        INVERTED => return Err(Refusal::unmodelled(flags.at, "an inverted protocol")),
        other => return Err(Refusal::invalid(flags.at, format!("compatibility flags {other:#x}"))),
    }
    match protocol.be32()? {
        0 => Ok(None),
        number @ 1..=255 => Ok(Some(number as u8)),
        number => Err(Refusal::invalid(protocol.at, format!("protocol {number}"))),
    }
}

/// Expressions whose place is checked at the end of the batch.
fn needs_checking(expr: &super::expr::Expr) -> bool {
    use super::expr::Expr;
    matches!(
        expr,
        Expr::Nat(_)
            | Expr::Reject(_)
            | Expr::Fib(_)
            | Expr::Lookup(_)
            | Expr::XtMatch(_)
            | Expr::XtTarget(_)
    )
}
