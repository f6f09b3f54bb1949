//! Local ports to listen at: any free one, or those of `--proxy-port-range`.
//! It must never open a socket: whether a port is free the caller finds out. Tests: below.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Which ports may be taken, and which are.
#[derive(Clone, Debug)]
pub struct Ports {
    range: Option<RangeInclusive<u16>>,
    taken: BTreeSet<u16>,
    next: u16,
}

impl Ports {
    /// Ports of a range; `None` leaves the choice to the kernel.
    pub fn new(range: Option<RangeInclusive<u16>>) -> Ports {
        let next = range.as_ref().map_or(0, |range| *range.start());
        Ports { range, taken: BTreeSet::new(), next }
    }

    /// Ports to try one after the other; 0 is any free one.
    pub fn candidates(&self) -> Vec<u16> {
        let Some(range) = &self.range else { return vec![0] };
        // Ports given back are used again as late as can be: old connections may still come.
        let (before, after) = (*range.start()..self.next, self.next..=*range.end());
        after.chain(before).filter(|port| !self.taken.contains(port)).collect()
    }

    /// One was taken.
    pub fn take(&mut self, port: u16) {
        self.taken.insert(port);
        if let Some(range) = &self.range {
            self.next = if port >= *range.end() { *range.start() } else { port + 1 };
        }
    }

    /// One is free again.
    pub fn free(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_used_up_and_a_freed_port_comes_last() {
        let mut ports = Ports::new(Some(10..=12));
        assert_eq!(ports.candidates(), [10, 11, 12]);
        ports.take(10);
        assert_eq!(ports.candidates(), [11, 12]);
        ports.free(10);
        assert_eq!(ports.candidates(), [11, 12, 10]);
        [10, 11, 12].into_iter().for_each(|port| ports.take(port));
        assert_eq!(ports.candidates(), Vec::<u16>::new());
    }

    #[test]
    fn without_a_range_the_kernel_chooses() {
        let mut ports = Ports::new(None);
        ports.take(40000);
        assert_eq!(ports.candidates(), [0]);
    }

    #[test]
    fn a_range_may_end_at_the_last_port() {
        let mut ports = Ports::new(Some(65535..=65535));
        ports.take(65535);
        ports.free(65535);
        assert_eq!(ports.candidates(), [65535]);
    }
}
