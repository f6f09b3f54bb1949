//! The whole relay on Linux's own sockets, over loopback: threads, ports, draining.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::board::Board;
use super::pool::{Announce, Limits, Serving};
use super::share::Loads;
use super::sockets::Trouble;
use super::threads::{Relay, Settings, Transport};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn settings() -> Settings {
    let limits = Limits { all: 100, each: 100, descriptors: 4096 };
    Settings { limits, ports: None, udp_timeout: Duration::from_millis(250) }
}

fn serving(endpoint: SocketAddr) -> Serving {
    Serving { endpoints: [endpoint].into(), affinity: None, announce: Announce::Nothing }
}

/// Answers each connection with what it sent, until it sends no more.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(8).flatten() {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                std::io::copy(&mut &stream, &mut writer).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
        }
    });
    at
}

fn open(relay: &mut Relay<&'static str>, key: &'static str, to: SocketAddr) -> SocketAddr {
    let port =
        relay.serve((key, "group"), (Transport::Tcp, (HOME, 0).into()), &serving(to)).unwrap();
    (HOME, port).into()
}

#[test]
fn a_megabyte_goes_there_and_back_and_half_closes_are_told_on() {
    let board = Board::default();
    let mut relay = Relay::start(&settings(), board.clone()).unwrap();
    let at = open(&mut relay, "a", echo());
    let mut stream = TcpStream::connect(at).unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == bytes);
    // Bytes are counted at the end of a turn, which may be after they have arrived.
    let counted = || board.figures().iter().map(|(_, f)| f.bytes_up + f.bytes_down).sum::<u64>();
    while counted() < 2 << 20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(counted(), 2 << 20);
}

/// A relay between a client and an endpoint.
fn over_udp() -> (Relay<&'static str>, UdpSocket, UdpSocket) {
    let endpoint = UdpSocket::bind((HOME, 0)).unwrap();
    let to = endpoint.local_addr().unwrap();
    let mut relay = Relay::start(&settings(), Board::default()).unwrap();
    let port =
        relay.serve(("u", "group"), (Transport::Udp, (HOME, 0).into()), &serving(to)).unwrap();
    let client = UdpSocket::bind((HOME, 0)).unwrap();
    client.connect((HOME, port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    endpoint.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (relay, client, endpoint)
}

#[test]
fn datagrams_go_there_and_back() {
    let (_relay, client, endpoint) = over_udp();
    let mut room = [0; 100];
    for n in 0..10u8 {
        client.send(&[n; 50]).unwrap();
        let (count, from) = endpoint.recv_from(&mut room).unwrap();
        endpoint.send_to(&room[..count], from).unwrap();
        assert_eq!(client.recv(&mut room).unwrap(), 50);
        assert_eq!(room[0], n);
    }
}

/// Sends datagrams of 1,000 bytes and a shorter one as one packet, each with a number of its own.
fn send_together(socket: &UdpSocket, count: u8, to: Option<SocketAddr>) {
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    let mut bytes: Vec<u8> = (0..count).flat_map(|n| [n; 1000]).collect();
    bytes.truncate(bytes.len() - 900);
    let rooms = [std::io::IoSlice::new(&bytes)];
    let each = [ControlMessage::UdpGsoSegments(&1000)];
    let to = to.map(SockaddrStorage::from);
    let sent = sendmsg(socket.as_raw_fd(), &rooms, &each, MsgFlags::empty(), to.as_ref());
    assert_eq!(sent, Ok(bytes.len()));
}

/// What comes, datagram by datagram: its length and its number.
fn heard(socket: &UdpSocket, count: u8) -> (Vec<(usize, u8)>, SocketAddr) {
    let (mut all, mut by) = (Vec::new(), SocketAddr::from((HOME, 0)));
    let mut room = [0; 2000];
    for _ in 0..count {
        let (length, from) = socket.recv_from(&mut room).unwrap();
        all.push((length, room[0]));
        by = from;
    }
    (all, by)
}

#[test]
fn datagrams_that_come_as_one_packet_go_on_each_for_itself() {
    let (_relay, client, endpoint) = over_udp();
    // More than one call takes in, then a few, then none of one length.
    for count in [60, 40, 2, 1] {
        let wanted: Vec<(usize, u8)> =
            (0..count).map(|n| (if n + 1 == count { 100 } else { 1000 }, n)).collect();
        send_together(&client, count, None);
        let (there, from) = heard(&endpoint, count);
        assert_eq!(there, wanted);
        send_together(&endpoint, count, Some(from));
        assert_eq!(heard(&client, count).0, wanted);
    }
    for length in [1, 300, 300, 300, 7, 0, 300, 2000, 2000, 9] {
        client.send(&vec![length as u8; length]).unwrap();
        let mut room = [0; 3000];
        let (count, from) = endpoint.recv_from(&mut room).unwrap();
        assert_eq!(count, length);
        endpoint.send_to(&room[..count], from).unwrap();
        assert_eq!(client.recv(&mut room).unwrap(), length);
    }
}

/// The kernel wakes the same thread again and again; they share what comes all the same.
#[test]
fn threads_share_connections_that_stay() {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"x").unwrap();
            open.push(stream);
        }
    });
    let limits = Limits { all: 1000, each: 1000, descriptors: 4096 };
    let loads = Loads::new(2);
    let with = Settings { limits, ..settings() };
    let mut relay = Relay::sharing(&loads, &with, Board::default()).unwrap();
    let at = open(&mut relay, "a", to);
    let mut all = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        all.push(stream);
    }
    let told = loads.told();
    let (least, most) = (*told.iter().min().unwrap(), *told.iter().max().unwrap());
    assert!(most <= least + 10, "{told:?}");
    // Each is still carried, whoever has it.
    drop(all);
}

#[test]
fn a_port_in_use_is_passed_over_and_a_used_up_range_is_an_error() {
    let taken = TcpListener::bind((HOME, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let ports = Some(port..=port);
    let mut relay = Relay::start(&Settings { ports, ..settings() }, Board::default()).unwrap();
    let at = (Transport::Tcp, (HOME, 0).into());
    let refused = relay.serve(("a", "group"), at, &serving((HOME, 1).into()));
    assert!(refused.is_err(), "{refused:?}");
    drop(taken);
    assert_eq!(relay.serve(("a", "group"), at, &serving((HOME, 1).into())), Ok(port));
    assert!(relay.serve(("b", "group"), at, &serving((HOME, 1).into())).is_err());
    relay.stop(&"a");
}

#[test]
fn listening_ports_leave_descriptors_for_connections() {
    let limits = Limits { all: 10, each: 10, descriptors: 4 };
    let mut relay = Relay::start(&Settings { limits, ..settings() }, Board::default()).unwrap();
    let at = (Transport::Tcp, (HOME, 0).into());
    let mut serve = |key: &'static str| relay.serve((key, key), at, &serving((HOME, 1).into()));
    assert!(serve("a").is_ok() && serve("b").is_ok());
    assert_eq!(serve("c"), Err(Trouble::Exhausted));
    assert!(serve("a").is_ok(), "it is there");
    relay.stop(&"a");
    assert!(relay.serve(("c", "c"), at, &serving((HOME, 1).into())).is_ok());
}

#[test]
fn draining_waits_for_the_last_connection_and_takes_no_new_one() {
    let mut relay = Relay::start(&settings(), Board::default()).unwrap();
    let at = open(&mut relay, "a", echo());
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let drained = std::thread::spawn(move || relay.drain(Duration::from_secs(30)));
    while TcpStream::connect(at).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    assert_eq!(drained.join().unwrap(), 0);
}

/// Packets of a byte use up a pipe's places long before its bytes: what is left in the socket must
/// not be forgotten, nor the end that was told of with it.
#[test]
fn a_flood_of_tiny_packets_arrives_whole_and_so_does_its_end() {
    let mut relay = Relay::start(&settings(), Board::default()).unwrap();
    let at = open(&mut relay, "a", echo());
    for count in [1, 2, 63, 64, 65, 300, 3000] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let bytes: Vec<u8> = (0..count).map(|n: u32| n as u8).collect();
        bytes.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == bytes, "{} of {count}", got.len());
    }
}

#[test]
fn an_answer_outlives_the_upload_that_it_refuses() {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        stream.write_all(b"413").unwrap();
        // Closed with much that was not read: Linux resets.
    });
    let mut relay = Relay::start(&settings(), Board::default()).unwrap();
    let at = open(&mut relay, "a", to);
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nonblocking(true).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < end {
        match stream.write(&[7; 65_536]) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
        }
    }
    stream.set_nonblocking(false).unwrap();
    let mut got = [0; 3];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"413");
}
