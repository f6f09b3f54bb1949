//! The tools of xtables and ipset in the language of `twin`: which there are, how each flavour is called in
//! a namespace, what the simulator makes of the same text. Knows no packet. Tests: `netlab kernel`.

use sim::{Host, XtErrorKind, XtFamily, XtRestore};

use crate::lab::Namespace;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// iptables-restore --noflush
    Iptables,
    /// ip6tables-restore --noflush
    Ip6tables,
    /// ipset restore
    Ipset,
}

/// The kernel's two halves that keep rules of iptables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// nf_tables, by xt expressions.
    #[default]
    Nft,
    /// ip_tables.
    Legacy,
}

impl Flavour {
    pub(super) fn named(name: &str) -> Result<Flavour, String> {
        match name {
            "nft" => Ok(Flavour::Nft),
            "legacy" => Ok(Flavour::Legacy),
            other => Err(format!("no flavour \"{other}\"")),
        }
    }

    /// As the tools are called.
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Nft => "nft",
            Flavour::Legacy => "legacy",
        }
    }
}

/// What the simulator says of a text.
pub(super) enum Said {
    Taken,
    Refused,
    Unmodelled(String),
}

impl Tool {
    /// The tool of a line, and what is for it.
    pub(super) fn of(line: &str) -> Option<(Tool, &str)> {
        let (name, rest) = line.split_once(':')?;
        let tool = match name {
            "iptables" => Tool::Iptables,
            "ip6tables" => Tool::Ip6tables,
            "ipset" => Tool::Ipset,
            _ => return None,
        };
        Some((tool, rest))
    }

    /// Gives a text to the real one: `taken`, or `refused`. What is not installed is an error.
    pub(super) fn real(
        self,
        node: &Namespace,
        flavour: Flavour,
        text: &str,
    ) -> Result<String, String> {
        let line = match self {
            Tool::Iptables => format!("iptables-{}-restore --noflush -w 30", flavour.name()),
            Tool::Ip6tables => format!("ip6tables-{}-restore --noflush -w 30", flavour.name()),
            Tool::Ipset => "ipset restore".to_owned(),
        };
        match node.command(&line, text) {
            Ok(_) => Ok("taken".to_owned()),
            Err(why) if why.contains("No such file or directory (os error 2)") => Err(why),
            Err(_) => Ok("refused".to_owned()),
        }
    }

    /// Gives a text to the simulated one.
    pub(super) fn simulated(self, host: &mut Host, text: &str) -> Said {
        let family = match self {
            Tool::Ipset => {
                return match host.ipset_restore(text) {
                    Ok(()) => Said::Taken,
                    Err(error) if error.kind == sim::ipset::IpsetErrorKind::NotModelled => {
                        Said::Unmodelled(error.to_string())
                    }
                    Err(_) => Said::Refused,
                };
            }
            Tool::Iptables => XtFamily::V4,
            Tool::Ip6tables => XtFamily::V6,
        };
        let how = XtRestore { noflush: true, counters: false };
        match host.iptables_restore(family, text, how) {
            Ok(()) => Said::Taken,
            Err(error) if error.kind == XtErrorKind::NotModelled => {
                Said::Unmodelled(error.to_string())
            }
            Err(_) => Said::Refused,
        }
    }
}
