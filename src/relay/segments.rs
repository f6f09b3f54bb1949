//! Datagrams of one length to one receiver can go through the kernel as one packet, and come out of it as
//! one (UDP_SEGMENT, UDP_GRO; Linux 4.18 and 5.0): here is which of a batch can, and how one is cut up.
//! Pure: values in, values out. Tests: below.

use std::ops::Range;

use super::datagrams::Batch;

/// Segments that a packet may have at most (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MOST: usize = 64;
/// Bytes that it may have at most: those of an IPv4 packet without its headers.
const MOST_BYTES: usize = 65_507;

/// How many datagrams from the beginning of a range can go as one packet: all of one length but the
/// last, which may be shorter. Those longer than `longest` go alone.
pub(super) fn alike(batch: &Batch, range: Range<usize>, longest: usize) -> usize {
    let lengths = || batch.datagrams[range.clone()].iter().map(|(_, at)| at.len());
    let Some(each) = lengths().next().filter(|each| (1..=longest).contains(each)) else {
        return usize::from(!range.is_empty());
    };
    let most = MOST.min(MOST_BYTES / each).max(1);
    let same = lengths().take(most).take_while(|length| *length == each).count();
    let shorter = lengths().nth(same).filter(|length| (1..each).contains(length));
    same + usize::from(same < most && shorter.is_some())
}

/// The datagrams that were received as one: each of this length, but the last, which may be shorter.
pub(super) fn cut(whole: Range<usize>, each: usize) -> impl Iterator<Item = Range<usize>> {
    let each = if each == 0 { whole.len().max(1) } else { each };
    // An empty datagram is one, too.
    let count = whole.len().div_ceil(each).max(1);
    (0..count).map(move |n| {
        let start = whole.start + n * each;
        start..(start + each).min(whole.end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let mut batch = Batch::empty();
        let mut start = 0;
        for length in lengths {
            batch.datagrams.push((None, start..start + length));
            start += length;
        }
        batch
    }

    #[test]
    fn datagrams_of_one_length_go_together_and_a_shorter_one_ends_them() {
        let of = |lengths: &[usize]| alike(&batch(lengths), 0..lengths.len(), 1400);
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[5]), 1);
        assert_eq!(of(&[5, 5, 5]), 3);
        assert_eq!(of(&[5, 5, 3, 5]), 3);
        assert_eq!(of(&[5, 5, 6]), 2);
        assert_eq!(of(&[5, 3, 5]), 2);
        assert_eq!(of(&[0, 0]), 1, "an empty one has no length to cut by");
        assert_eq!(of(&[5, 0]), 1, "nor would an empty one be cut off at the end");
        assert_eq!(of(&[1500, 1500]), 1, "longer than what went before");
        assert_eq!(of(&[7; 100]), 64);
        assert_eq!(of(&[1400; 100]), 46);
        assert_eq!(alike(&batch(&[9, 5, 5]), 1..3, 1400), 2);
        assert_eq!(alike(&batch(&[65_000, 65_000]), 0..2, 65_535), 1);
    }

    #[test]
    fn what_came_as_one_is_cut_where_it_was_joined() {
        let of = |whole, each| {
            let starts = |at: Range<usize>| (at.start, at.end);
            cut(whole, each).map(starts).collect::<Vec<_>>()
        };
        assert_eq!(of(10..20, 0), [(10, 20)]);
        assert_eq!(of(10..20, 4), [(10, 14), (14, 18), (18, 20)]);
        assert_eq!(of(10..18, 4), [(10, 14), (14, 18)]);
        assert_eq!(of(10..10, 0), [(10, 10)]);
        assert_eq!(of(10..10, 4), [(10, 10)]);
    }
}
