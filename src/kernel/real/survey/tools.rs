//! What only the tools of iptables and ipset can print: rules of both flavours and sets. They are
//! run only where the kernel has such rules; one that is lacking or fails is a lack by name.
//! Tests: `netlab`.

use std::process::Command;
use std::process::Stdio;

use super::{Survey, lack};
use crate::kernel::real::socket::Netlink;
use crate::kernel::survey::{Flavour, IptablesText};
use crate::kernel::{IpsetFact, IpsetType};
use crate::model::Family;
use crate::netlink::nft::message;
use crate::netlink::read::{Attributes, text};

/// Tables of iptables; in nf_tables iptables-nft uses the same names.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

pub(super) fn read(netfilter: &mut Netlink, found: &mut Survey) {
    for family in Family::ALL {
        for table in legacy_tables(family) {
            save(found, (family, Flavour::Legacy), Some(&table));
        }
        // Asked for one table this tool reads the chains of all: so it is asked once.
        if has_nft_tables(found, family) {
            save(found, (family, Flavour::Nft), None);
        }
    }
    if found.iptables.iter().any(|saved| saved.text.contains("--match-set")) {
        match sets(netfilter) {
            Ok(text) => found.ipsets = text,
            Err(why) => lack(found, "ipsets", &why),
        }
    }
}

/// All sets as `ipset save` prints them: the kernel is asked itself, and the tool only where there
/// are sets of types that nobody but the tool knows.
fn sets(netfilter: &mut Netlink) -> Result<String, String> {
    let known = |set: &IpsetFact| !matches!(set.spec.kind, IpsetType::Other(_));
    match crate::kernel::real::ipset::sets(netfilter, "") {
        Ok(sets) if sets.iter().all(known) => Ok(sets.iter().map(IpsetFact::save_text).collect()),
        _ => run("ipset", &["save"]),
    }
}

/// Tables that ip_tables has; asking the tool would load the module.
fn legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = std::fs::read_to_string(file).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Whether iptables-nft may have made a table: by its name, and by a chain of theirs.
fn has_nft_tables(found: &Survey, family: Family) -> bool {
    let number = crate::netlink::nfproto(family);
    let builtin = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    found.nft.iter().filter(|o| o.family == number && o.kind == message::NEW_CHAIN).any(|chain| {
        let attributes = Attributes::new(&chain.attributes);
        let named = |number| attributes.get(number).map(text).unwrap_or_default();
        TABLES.contains(&&*named(1)) && builtin.contains(&&*named(3))
    })
}

/// What the tool prints of a table, or of all that there are.
fn save(found: &mut Survey, (family, flavour): (Family, Flavour), table: Option<&str>) {
    let tool = match (family, flavour) {
        (Family::V4, Flavour::Legacy) => "iptables-legacy-save",
        (Family::V6, Flavour::Legacy) => "ip6tables-legacy-save",
        (Family::V4, Flavour::Nft) => "iptables-nft-save",
        (Family::V6, Flavour::Nft) => "ip6tables-nft-save",
    };
    let of_table: Vec<&str> = table.into_iter().flat_map(|table| ["-t", table]).collect();
    let printed = match run(tool, &of_table) {
        Ok(printed) => printed,
        Err(why) => return lack(found, [&[tool], &of_table[..]].concat().join(" "), &why),
    };
    for strange in printed.lines().filter_map(incompatible) {
        // What iptables-nft cannot print is still there rule by rule, as nf_tables has it.
        let what = format!("{tool} -t {strange}");
        lack(found, what, &format!("Table `{strange}' is incompatible, use 'nft' tool."));
    }
    for text in by_table(&printed) {
        let Some(table) = text.lines().find_map(|line| line.strip_prefix('*')) else { continue };
        let table = table.trim_end().to_owned();
        found.iptables.push(IptablesText { family, flavour, table, text: text.to_owned() });
    }
}

/// The table that the tool says it cannot print: it says so in a comment and ends well.
fn incompatible(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# Table `")?;
    rest.contains("incompatible").then(|| rest.split('\'').next().unwrap_or_default())
}

/// The parts of what the tool prints, each of which ends in a `COMMIT`.
fn by_table(printed: &str) -> impl Iterator<Item = &str> {
    let mut rest = printed;
    std::iter::from_fn(move || {
        let end = rest.find("\nCOMMIT\n")? + "\nCOMMIT\n".len();
        let (table, behind) = rest.split_at(end);
        rest = behind;
        Some(table)
    })
}

fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{tool}: {e}; install it, or its rules are not looked at"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{tool}: {}: {}", output.status, said.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_parted_by_tables() {
        let printed = "# Generated\n*nat\n:A - [0:0]\nCOMMIT\n# Done\n# Generated\n*filter\n\
                       -A A -m comment --comment COMMIT\nCOMMIT\n# Done\n";
        let tables: Vec<&str> = by_table(printed).collect();
        assert_eq!(tables.concat() + "# Done\n", printed);
        assert!(tables[0].contains("*nat") && tables[1].contains("*filter"));
        let strange = "# Table `raw' is incompatible, use 'nft' tool.";
        assert_eq!(incompatible(strange), Some("raw"));
        assert_eq!(incompatible("# Generated by iptables-nft-save"), None);
    }
}
