//! What one proxy mode does with one family: the only place where the sync loop meets a mode.
//! `family` keeps what is wanted, a driver what is known to be in the kernel and the way there.
//! It must never know the API's objects or another mode. Tests: with the drivers, `proptests`.

use std::collections::BTreeSet;

use super::Report;
use crate::backend::Options;
use crate::backend::program::Frontend;
use crate::backend::ruleset::{Ruleset, Wants};
use crate::kernel::drift::{Foreign, Touched};
use crate::kernel::{Error, Kernel, Socket};
use crate::model::{Family, Mode, Notice, Steering};

/// What the kernel is to be brought to.
pub(super) struct Wanted<'a> {
    /// Every frontend, and who has it.
    pub(super) ruleset: &'a Ruleset,
    /// What the node's configuration says.
    pub(super) options: &'a Options,
    /// Frontends that are other than at the last call that succeeded.
    pub(super) changed: BTreeSet<Frontend>,
}

/// The rules of one mode in one family, as far as they are known.
pub(super) trait Driver: std::fmt::Debug + Send {
    /// Whether what is in the kernel has to be found out before anything is written.
    fn is_unknown(&self) -> bool;

    /// Whether something waits that no change of the cluster asked for.
    fn is_behind(&self) -> bool {
        false
    }

    /// Believes no more that what was written is there.
    fn distrust(&mut self);

    /// Looks whether what was written is still there; gives what is wrong, if anything is.
    fn look(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error>;

    /// Looks at what others are known to have touched, which may be less than all.
    fn look_closer(&mut self, kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        self.look(kernel)
    }

    /// Whether the last `look` left something for `look_on`, which is not to stop everything else.
    fn looks_on(&self) -> bool {
        false
    }

    /// Looks at some more of it.
    fn look_on(&mut self, _kernel: &mut dyn Kernel) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Whether a change that somebody else made is in what this mode wrote, so that it has to be
    /// put right. Facilities that tell nobody are only looked at now and then, by `look`.
    fn minds(&self, change: &Touched) -> bool;

    /// Whether what somebody else did may be in what this mode wrote, which only a close `look` can
    /// tell: `look_closer` comes soon.
    fn suspects(&mut self, _foreign: &Foreign) -> bool {
        false
    }

    /// Brings the kernel to what is wanted. After an error the caller distrusts it.
    fn bring(
        &mut self,
        kernel: &mut dyn Kernel,
        wanted: Wanted<'_>,
        report: &mut Report,
    ) -> Result<(), Error>;

    /// Does what the rules just written ask for beside them, such as to forget clients whose
    /// endpoint is gone. After an error the caller distrusts it.
    fn settle(&mut self, _kernel: &mut dyn Kernel, _report: &mut Report) -> Result<(), Error> {
        Ok(())
    }

    /// Removes what nobody needs any more; for when nothing else waits. After an error the caller
    /// distrusts it.
    fn tidy(&mut self, kernel: &mut dyn Kernel, report: &mut Report) -> Result<(), Error>;

    /// The frontends whose packets this process answers itself, each with the local sockets that it
    /// has for them now. Flows to any other socket of its are dead.
    fn answers(&self) -> Vec<(Frontend, Socket)> {
        Vec::new()
    }

    /// What this mode cannot do as asked; sorted.
    fn notices(&self) -> Vec<Notice> {
        Vec::new()
    }
}

/// What rules are to be brought to: what is wanted, and the node's configuration.
pub(super) type Goal<'a> = (&'a dyn Wants, &'a Options);

/// Rules that can lead packets to this process.
pub(super) trait Steers: Driver {
    /// Keeps everybody from this process's ports whom no rule led there.
    fn guard(&mut self, kernel: &mut dyn Kernel, options: &Options) -> Result<(), Error>;

    /// Brings the rules to the goal, where these frontends are other than at the last call that
    /// succeeded. After an error the caller distrusts it.
    fn steer(
        &mut self,
        kernel: &mut dyn Kernel,
        goal: Goal<'_>,
        changed: BTreeSet<Frontend>,
        report: &mut Report,
    ) -> Result<(), Error>;
}

/// The driver of a mode. Modes that are not built are refused where settings are judged.
pub(super) fn driver((mode, steering): (Mode, Steering), family: Family) -> Box<dyn Driver> {
    match mode {
        Mode::Iptables => Box::new(super::iptables::Iptables::new(family)),
        Mode::Ipvs => Box::new(super::ipvs::Ipvs::new(family)),
        Mode::Nftables => Box::new(super::nftables::Nftables::new(family)),
        Mode::Userspace => Box::new(super::userspace::Userspace::new(family, steering)),
    }
}
