//! Each target on its seeds and on what chance makes of them: bytes changed, left out, doubled, put together from two.
//! The same seed makes the same inputs; a panic names it. `SMOKE=N` tries N inputs of each seed instead of 60.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's memory, counted: bytes in use, and the most there were since it was last asked.
struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[global_allocator]
static MEMORY: Counted = Counted { now: AtomicUsize::new(0), most: AtomicUsize::new(0) };

// SAFETY: every call goes on to the system's allocator as it came; only numbers are kept.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.now.fetch_add(layout.size(), Relaxed) + layout.size();
        self.most.fetch_max(now, Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as asked.
        unsafe { System.dealloc(at, layout) }
    }
}

impl Counted {
    /// How many bytes more than before something needs while it runs.
    fn needed(&self, work: impl FnOnce()) -> usize {
        let before = self.now.load(Relaxed);
        self.most.store(before, Relaxed);
        work();
        self.most.load(Relaxed).saturating_sub(before)
    }
}

/// What an input of so many bytes may need at most: no small input may ask for much.
fn allowed(length: usize) -> usize {
    (1 << 18) + 1024 * length
}

/// Chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % most.max(1) as u64) as usize
    }
}

/// Numbers at the edge of something.
const EDGES: [u8; 8] = [0, 1, 4, 0x7f, 0x80, 0xff, b'\n', b' '];

fn changed(seed: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let to = (at + 1 + chance.below(32)).min(bytes.len());
        match chance.below(7) {
            0 if at < bytes.len() => bytes[at] = EDGES[chance.below(EDGES.len())],
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
            4 => bytes.truncate(at),
            5 => {
                let from = chance.below(other.len());
                let part = &other[from..(from + 1 + chance.below(64)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => bytes.insert(at, EDGES[chance.below(EDGES.len())]),
        }
    }
    bytes
}

#[test]
fn seeds_and_what_chance_makes_of_them_do_no_harm() {
    let each: usize = std::env::var("SMOKE").map_or(60, |n| n.parse().expect("SMOKE=NUMBER"));
    for (name, target) in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .expect("each target has seeds")
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(files.len() >= 3, "{name} has {} seeds", files.len());
        let seeds: Vec<Vec<u8>> =
            files.iter().map(|file| std::fs::read(file).expect("a readable seed")).collect();
        let mut chance = Chance(7);
        let mut most = (0, 0);
        for (file, seed) in files.iter().zip(&seeds) {
            // Once before it is counted: what is made once stays.
            target(seed);
            for number in 0..each {
                let input = changed(seed, &seeds[chance.below(seeds.len())], &mut chance);
                let mut told = Ok(());
                let needed = MEMORY.needed(|| told = std::panic::catch_unwind(|| target(&input)));
                let which = format!("{name}, input {number} of {}", file.display());
                assert!(told.is_ok(), "{which}: {input:?}");
                most = most.max((needed, input.len()));
                let bound = allowed(input.len());
                assert!(needed <= bound, "{which} needs {needed} bytes: {input:?}");
            }
        }
        let inputs = seeds.len() * (each + 1);
        let (needed, length) = most;
        println!(
            "{name}: {} seeds, {inputs} inputs; at most {needed} bytes of memory, for {length}",
            seeds.len()
        );
    }
}
