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
            save(found, (family, Flavour::Legacy), &table);
        }
        for table in nft_tables(found, family) {
            save(found, (family, Flavour::Nft), &table);
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

/// Tables of nf_tables that iptables-nft may have made: by name, and by a chain of theirs.
fn nft_tables(found: &Survey, family: Family) -> Vec<String> {
    let number = crate::netlink::nfproto(family);
    let chains = found.nft.iter().filter(|o| o.family == number && o.kind == message::NEW_CHAIN);
    let builtin = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let theirs = |table: &&str| {
        chains.clone().any(|chain| {
            let attributes = Attributes::new(&chain.attributes);
            let name = attributes.get(3).map(text).unwrap_or_default();
            attributes.get(1).map(text).as_deref() == Some(*table) && builtin.contains(&&*name)
        })
    };
    TABLES.iter().copied().filter(|table| theirs(table)).map(str::to_owned).collect()
}

fn save(found: &mut Survey, (family, flavour): (Family, Flavour), table: &str) {
    let tool = match (family, flavour) {
        (Family::V4, Flavour::Legacy) => "iptables-legacy-save",
        (Family::V6, Flavour::Legacy) => "ip6tables-legacy-save",
        (Family::V4, Flavour::Nft) => "iptables-nft-save",
        (Family::V6, Flavour::Nft) => "ip6tables-nft-save",
    };
    let printed = run(tool, &["-t", table]).and_then(|text| {
        // The tool says so in a comment and ends well.
        let strange = text
            .lines()
            .find(|line| line.starts_with("# Table `") && line.contains("incompatible"));
        match strange {
            Some(line) => Err(line.trim_start_matches("# ").to_owned()),
            None => Ok(text),
        }
    });
    match printed {
        Ok(text) if text.contains("COMMIT") => {
            let table = table.to_owned();
            found.iptables.push(IptablesText { family, flavour, table, text });
        }
        Ok(_) => {}
        // What iptables-nft cannot print is still there rule by rule, as nf_tables has it.
        Err(why) => lack(found, format!("{tool} -t {table}"), &why),
    }
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
