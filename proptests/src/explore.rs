//! Generated cases by number: the same seed and number are the same case, on any kernel.
//! Knows no kernel itself. Tests: the properties go the same way.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::cluster::{Mode, Way};
use crate::fate::Packet;
use crate::generate::{Case, case};
use crate::packets;

/// A source of chance that follows from a seed.
pub fn chance(seed: u64, number: u64) -> TestRng {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// The case with a number, as a node in this mode sees it, and at most `most` of its packets, evenly spread.
pub fn numbered(
    ((mode, steering), seed): (Way, u64),
    number: u64,
    most: usize,
) -> Result<(Case, Vec<Packet>), String> {
    let mut runner = TestRunner::new_with_rng(Config::default(), chance(seed, number));
    let mut case = case().new_tree(&mut runner).map_err(|e| e.to_string())?.current();
    case.setup.mode = mode;
    case.setup.steering = steering;
    case.setup.localhost_node_ports = mode == Mode::Iptables && number.is_multiple_of(2);
    let all = packets::all(&case.setup, &case.objects.cluster());
    let step = all.len().div_ceil(most.max(1)).max(1);
    let first = (number as usize) % step;
    Ok((case, all.into_iter().skip(first).step_by(step).collect()))
}
