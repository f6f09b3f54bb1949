//! The words of iptables that modes share: tables, chains, rules, as iptables-save prints them.
//! Pure. It must never know Services or a mode's order of rules. Tests: in the files.

pub mod chain;
pub mod rule;
