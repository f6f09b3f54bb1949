//! What the kernel checks when a table is committed: no circles, no jumps deeper than its stack, and each rule only at hooks
//! that take it. Facts from nft_chain_validate (nf_tables_api.c), mark_source_chains (ip_tables.c), xt_check_match.
//! It must never change a table. Tests: tests/xtables_texts.rs.

use super::error::{Refusal, Taken, XtErrorKind};
use super::table::Table;
use crate::hash::FastMap;

/// How many jumps may follow one another: one less than NFT_JUMP_STACK_SIZE. The legacy flavour takes more.
pub(super) const DEEPEST: usize = 15;

/// Chains seen under one hook, with the length of the longest way of jumps out of each.
type Seen = FastMap<u32, usize>;

/// Checks every chain that packets can reach.
pub(super) fn verify(table: &Table) -> Taken<()> {
    for (slot, hook) in table.built_in() {
        let mut seen = Seen::default();
        walk(table, slot, (1 << hook as u8, hook.name()), &mut (Vec::new(), &mut seen))?;
    }
    Ok(())
}

/// Gives how many jumps can follow one another from here. The way is never longer than `DEEPEST`, so neither is the recursion.
fn walk(
    table: &Table,
    slot: u32,
    hook: (u8, &str),
    on: &mut (Vec<u32>, &mut Seen),
) -> Taken<usize> {
    let Some(chain) = table.chain(slot) else { return Ok(0) };
    let refuse = |kind, detail: String| Err(Refusal::new(kind, 1, detail));
    if on.0.contains(&slot) {
        return refuse(
            XtErrorKind::Loop,
            format!("Too many links: chain `{}' leads back to itself", chain.name),
        );
    }
    if let Some(&height) = on.1.get(&slot) {
        if on.0.len() + height > DEEPEST {
            return refuse(
                XtErrorKind::Loop,
                format!("Too many links: more than {DEEPEST} jumps through `{}'", chain.name),
            );
        }
        return Ok(height);
    }
    if on.0.len() > DEEPEST {
        return refuse(
            XtErrorKind::Loop,
            format!("Too many links: more than {DEEPEST} jumps to `{}'", chain.name),
        );
    }
    on.0.push(slot);
    let mut height = 0;
    for (number, rule) in chain.rules.iter().enumerate() {
        if rule.spec.hooks() & hook.0 == 0 {
            let mut text = String::new();
            rule.spec.print(&mut text);
            let detail = format!(
                "chain `{}' rule {}: `{}' is not valid at {}",
                chain.name,
                number + 1,
                text.trim(),
                hook.1
            );
            return refuse(XtErrorKind::Invalid, detail);
        }
        if let Some((_, target)) = rule.spec.target.chain() {
            height = height.max(1 + walk(table, target, hook, on)?);
        }
    }
    on.0.pop();
    on.1.insert(slot, height);
    Ok(height)
}
