//! How virtual servers choose: a scheduler with its flags, as `--ipvs-scheduler` or a Service's
//! annotation asks for it. `NAME`, or `NAME:FLAG,…` with the flags of `ipvsadm -b`.
//! It knows no kernel: whether that has the scheduler is asked elsewhere. Tests: below.

use crate::kernel::Scheduler;
use crate::kernel::ipvs::{SCHEDULER_FLAG_1, SCHEDULER_FLAG_2};

/// The annotation by which a Service chooses its scheduler.
pub const ANNOTATION: &str = "kube-proxy.io/ipvs-scheduler";

/// A scheduler with its flags.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Choice {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Its flags (`SCHEDULER_FLAG_*`).
    pub flags: u32,
}

/// Round robin.
pub const ROUND_ROBIN: Choice = Choice { scheduler: Scheduler::RR, flags: 0 };

impl Choice {
    /// Reads what was asked for. An empty text is round robin. The error says what is allowed.
    pub fn read(text: &str) -> Result<Choice, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(ROUND_ROBIN);
        }
        let (name, flags) = match text.split_once(':') {
            Some((name, flags)) => (name.trim(), Some(flags)),
            None => (text, None),
        };
        let scheduler = Scheduler::named(name).ok_or_else(|| {
            let known = Scheduler::KNOWN.join(", ");
            format!("{name:?} is no scheduler's name, such as {known}")
        })?;
        let flags = match flags {
            Some(list) => read_flags(name, list)?,
            None => usual_flags(name),
        };
        Ok(Choice { scheduler, flags })
    }

    /// Whether a destination of weight 0 can still be chosen, so that its clients would be refused
    /// although others could serve them. `dh` has no flag against it.
    pub fn stumbles(&self) -> bool {
        self.scheduler.name() == "dh"
    }

    /// The most destinations it takes. Maglev's table has 4093 places (`IP_VS_MH_TAB_SIZE`).
    pub fn most_destinations(&self) -> usize {
        if self.scheduler.name() == "mh" { 4093 } else { usize::MAX }
    }
}

/// `mh` counts the client's port, as the reference has it. Both that hash step over a destination
/// of weight 0: without it, who falls to an endpoint that is being taken away is refused.
fn usual_flags(name: &str) -> u32 {
    match name {
        "mh" => SCHEDULER_FLAG_1 | SCHEDULER_FLAG_2,
        "sh" => SCHEDULER_FLAG_1,
        _ => 0,
    }
}

fn read_flags(name: &str, list: &str) -> Result<u32, String> {
    let mut flags = 0;
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let known = word.strip_prefix(name).filter(|_| matches!(name, "mh" | "sh"));
        flags |= match known {
            Some("-fallback") => SCHEDULER_FLAG_1,
            Some("-port") => SCHEDULER_FLAG_2,
            _ => {
                return Err(format!(
                    "{word:?} is no flag of {name}; there are mh-port, mh-fallback, sh-port, sh-fallback"
                ));
            }
        };
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_read_with_their_flags() {
        let both = SCHEDULER_FLAG_1 | SCHEDULER_FLAG_2;
        for (text, name, flags) in [
            ("", "rr", 0),
            (" wlc ", "wlc", 0),
            ("mh", "mh", both),
            ("sh", "sh", SCHEDULER_FLAG_1),
            ("mh:mh-port", "mh", SCHEDULER_FLAG_2),
            ("sh: sh-port, sh-fallback", "sh", both),
            ("mh:", "mh", 0),
            ("of-my-own", "of-my-own", 0),
        ] {
            let choice = Choice::read(text).expect("it is well formed");
            assert_eq!((choice.scheduler.name(), choice.flags), (name, flags), "{text:?}");
        }
        for bad in ["MH", "rr:mh-port", "mh:sh-port", "mh:port", "a b", ":", "sixteen__letters"] {
            assert!(Choice::read(bad).is_err(), "{bad:?}");
        }
    }
}
