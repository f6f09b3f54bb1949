//! A bell that says when a CPU of the real kernel has carried every packet that was sent before it: a
//! packet on a link of its own, behind the others in the same queue. So nobody waits for silence, and a
//! busy machine changes no answer. Knows no case. Tests: `netlab kernel`, `netlab fuzz`.

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use sim::Packet;

use super::sockets::{Ear, Mouth};
use super::wire::{Numbers, build};
use crate::lab::Namespace;

/// Of a packet's way: in, through a forwarding host, out, and an answer's way back, with some to spare.
const ROUNDS: u32 = 6;
/// A machine that needs longer for one packet is not usable.
const LOST: Duration = Duration::from_secs(60);
/// A link that is new drops what comes before its queue is there.
const AGAIN: Duration = Duration::from_millis(50);

/// Two namespaces and the link between them.
#[derive(Debug)]
pub(super) struct Bell {
    mouth: Mouth,
    ear: [Ear; 1],
    rung: u32,
    _ends: [Namespace; 2],
}

impl Bell {
    /// Hangs it, and binds the calling thread to the CPU it is on: packets of one CPU stay in order.
    pub(super) fn hang() -> Result<Bell, String> {
        let cpu = sched_getcpu().map_err(|e| format!("getcpu: {e}"))?;
        let mut one = CpuSet::new();
        one.set(cpu).map_err(|e| format!("CPU {cpu}: {e}"))?;
        sched_setaffinity(Pid::from_raw(0), &one).map_err(|e| format!("CPU {cpu}: {e}"))?;
        let ends = [Namespace::new()?, Namespace::new()?];
        let far = ends[1].path.display();
        ends[0].command(
            "ip -batch -",
            &format!(
                "link add e address 02:00:00:00:ff:01 type veth peer name e address 02:00:00:00:ff:02 netns {far}\n\
                 address add 198.19.0.1/30 dev e\nlink set e up\n\
                 neighbour replace 198.19.0.2 lladdr 02:00:00:00:ff:02 dev e nud permanent\n"
            ),
        )?;
        ends[1].command("ip -batch -", "link set e up\n")?;
        let mouth = ends[0].run(Mouth::open)??;
        let ear = [ends[1].run(Ear::on_links)??];
        Ok(Bell { mouth, ear, rung: 0, _ends: ends })
    }

    /// Returns when all that was sent before is where it stays.
    pub(super) fn wait(&mut self) -> Result<(), String> {
        (0..ROUNDS).try_for_each(|_| self.ring())
    }

    fn ring(&mut self) -> Result<(), String> {
        let end = |text: &str| text.parse().expect("a constant address");
        let packet = Packet::udp(end("198.19.0.1:1"), end("198.19.0.2:1"));
        self.rung += 1;
        let numbers = Numbers { sequence: self.rung, answer: 0 };
        let last = Instant::now() + LOST;
        let mut sent: Option<Instant> = None;
        while Instant::now() < last {
            if sent.is_none_or(|sent| sent.elapsed() > AGAIN) {
                self.mouth.send(packet.dst, &build(&packet, numbers), 0)?;
                sent = Some(Instant::now());
            }
            let heard = self.ear[0].wait(AGAIN)?;
            if heard.is_some_and(|h| h.numbers == numbers && h.packet.dst == packet.dst) {
                return Ok(());
            }
        }
        Err("a packet on a link of its own did not arrive".to_owned())
    }
}
