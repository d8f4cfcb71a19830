//! What comes back: is it ours, whole, in order, and how long was it away. It must never take a frame for good that
//! differs in anything but what a load balancer changes.

use dataplane::packet::checksum::{fold, sum, verify};
use hdrhistogram::Histogram;

use crate::frames::{Addressing, IP, Protocol, Stamp, TICK_SHIFT, TRANSPORT};

/// Frames that may be under way: one that comes later than so many others after it is not told from a duplicate.
const WINDOW: u32 = 1 << 18;

/// One frame in how many has its time taken, as a power of two. All would cost more than the rest of the check.
const TIMED: u32 = 3;

/// What a frame is that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Ours, of this run, and in its place or not.
    Ours(Place, Stamp),
    /// Ours, of an earlier run.
    Stale,
    /// Not ours.
    Foreign,
    /// Ours, but not as it was.
    Damaged(Damage),
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It has another length.
    Length,
    /// It is not of the client that its stamp names.
    Client,
    /// It has a number that no frame was sent with.
    Sequence,
    /// A checksum is wrong.
    Checksum,
}

/// A frame among the others of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InOrder,
    /// After one that was sent later.
    Late,
    /// Not the first with its number.
    Again,
}

/// Which frames of a run have come.
struct Window {
    /// A bit for each of the last [`WINDOW`] numbers.
    seen: Box<[u64]>,
    /// One more than the highest number that has come.
    next: u32,
}

impl Window {
    fn new() -> Self {
        Self { seen: vec![0; WINDOW as usize / 64].into(), next: 0 }
    }

    /// Takes down that number `sequence` has come. Numbers may wrap.
    #[inline]
    fn observe(&mut self, sequence: u32) -> Place {
        let ahead = sequence.wrapping_sub(self.next).cast_signed();
        let word = (sequence % WINDOW / 64) as usize;
        let bit = 1 << (sequence % 64);
        if ahead == 0 && bit != 1 {
            self.next = sequence.wrapping_add(1);
            self.seen[word] |= bit;
            return Place::InOrder;
        }
        if ahead >= 0 {
            // Words are emptied of what was there a window ago when the first number of them is passed.
            let passed = self.next.wrapping_sub(1) / 64..sequence / 64;
            if ahead.unsigned_abs() >= WINDOW {
                self.seen.fill(0);
            } else if passed.start != passed.end {
                let words = passed.end.wrapping_sub(passed.start) % (1 << 26);
                for n in 1..=words {
                    let number = passed.start.wrapping_add(n) % (WINDOW / 64);
                    self.seen[number as usize] = 0;
                }
            }
            self.next = sequence.wrapping_add(1);
            self.seen[word] |= bit;
            return Place::InOrder;
        }
        let behind = ahead.unsigned_abs();
        // The oldest words may be half emptied.
        if behind > WINDOW - 64 {
            return Place::Late;
        }
        let again = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        if again { Place::Again } else { Place::Late }
    }
}

/// Counts of what has come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ours, of this run, whole, each once.
    pub received: u64,
    /// Of these, how many came after one that was sent later; of other flows, too.
    pub reordered: u64,
    /// Ours, but not the first with their number.
    pub duplicated: u64,
    /// Ours, and damaged.
    pub damaged: u64,
    /// Ours, of an earlier run.
    pub stale: u64,
    /// Not ours.
    pub foreign: u64,
}

/// The checks of one run.
pub struct Checker {
    addressing: Addressing,
    run: u8,
    checksums: bool,
    window: Window,
    counts: Counts,
    /// In ticks.
    latency: Histogram<u64>,
    first_damage: Option<(Damage, Vec<u8>)>,
}

impl Checker {
    /// Checks of run number `run`. `checksums` says whether every frame's are verified.
    pub fn new(addressing: &Addressing, run: u8, checksums: bool) -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, u64::from(u32::MAX), 3)?;
        let (window, counts) = (Window::new(), Counts::default());
        Ok(Self { addressing: *addressing, run, checksums, window, counts, latency, first_damage: None })
    }

    /// Looks at a frame that came in at the time `now`, in cycles: its first bytes, and its whole length. `sent` frames
    /// have been written in this run.
    #[inline]
    pub fn check(&mut self, frame: &[u8], length: usize, sent: u64, now: u64) -> Option<Stamp> {
        match self.find(frame, length, sent) {
            Finding::Ours(place, stamp) => {
                match place {
                    Place::InOrder => {}
                    Place::Late => self.counts.reordered += 1,
                    Place::Again => {
                        self.counts.duplicated += 1;
                        return None;
                    }
                }
                self.counts.received += 1;
                if stamp.sequence.is_multiple_of(1 << TIMED) {
                    let ticks = ((now >> TICK_SHIFT) as u32).wrapping_sub(stamp.time);
                    self.latency.saturating_record(ticks.into());
                }
                return Some(stamp);
            }
            Finding::Stale => self.counts.stale += 1,
            Finding::Foreign => self.counts.foreign += 1,
            Finding::Damaged(damage) => {
                self.counts.damaged += 1;
                self.first_damage.get_or_insert_with(|| (damage, frame.to_vec()));
            }
        }
        None
    }

    #[inline]
    fn find(&mut self, frame: &[u8], length: usize, sent: u64) -> Finding {
        let Addressing { protocol, bytes, clients, .. } = self.addressing;
        let Some(headers) = frame.first_chunk::<{ TRANSPORT + 4 }>() else { return Finding::Foreign };
        // IPv4 without options, which is what is sent, and no balancer adds any.
        let is_ip = headers[IP - 2..=IP] == [0x08, 0x00, 0x45] && headers[IP + 9] == protocol.number();
        let Some(stamp) = Stamp::read(protocol, frame).filter(|_| is_ip) else { return Finding::Foreign };
        if stamp.run != self.run {
            return Finding::Stale;
        }
        if length != bytes {
            return Finding::Damaged(Damage::Length);
        }
        let (address, port) = clients.of(stamp.flow);
        let (address, port) = (address.to_be_bytes(), port.to_be_bytes());
        let is_source = || headers[IP + 12..IP + 16] == address && headers[TRANSPORT..TRANSPORT + 2] == port;
        let is_destination =
            || headers[IP + 16..IP + 20] == address && headers[TRANSPORT + 2..TRANSPORT + 4] == port;
        if !is_source() && !is_destination() {
            return Finding::Damaged(Damage::Client);
        }
        if self.checksums && !has_right_checksums(protocol, frame, length) {
            return Finding::Damaged(Damage::Checksum);
        }
        if (sent as u32).wrapping_sub(stamp.sequence).cast_signed() <= 0 {
            return Finding::Damaged(Damage::Sequence);
        }
        Finding::Ours(self.window.observe(stamp.sequence), stamp)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The time that frames were away, in ticks of the stamps' clock.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// The first damaged frame there was, in words.
    pub fn first_damage(&self) -> Option<String> {
        let (damage, frame) = self.first_damage.as_ref()?;
        let what = match damage {
            Damage::Length => "it has another length than what was sent",
            Damage::Client => "it is not of the client that its stamp names",
            Damage::Sequence => "it has a number that no frame was sent with",
            Damage::Checksum => "a checksum is wrong",
        };
        let bytes: String = frame.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{what}: {bytes}"))
    }
}

/// Whether both checksums are right, by adding up all they cover (RFC 791, 768, 9293).
fn has_right_checksums(protocol: Protocol, frame: &[u8], length: usize) -> bool {
    if frame.len() < length {
        // In several buffers; what cannot be seen cannot be judged.
        return true;
    }
    let (Some(ip), Some(payload)) = (frame.get(IP..TRANSPORT), frame.get(TRANSPORT..length)) else {
        return false;
    };
    let pseudo = sum(&ip[12..20]) + u32::from(protocol.number()) + payload.len() as u32;
    verify(ip) == 0 && fold(pseudo + sum(payload)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::tests::addressing;
    use crate::frames::{Frames, Phase, Side};

    const RUN: u8 = 3;

    struct Fixture {
        frames: Frames,
        checker: Checker,
    }

    impl Fixture {
        fn new(protocol: Protocol, bytes: usize, checksums: bool) -> Self {
            let addressing = addressing(protocol, bytes);
            let frames = Frames::new(&addressing, Side::Clients, Phase::Established, RUN).unwrap();
            Self { frames, checker: Checker::new(&addressing, RUN, checksums).unwrap() }
        }

        fn frame(&self, sequence: u32) -> Vec<u8> {
            let mut frame = vec![0; self.frames.len()];
            self.frames.write(&mut frame, sequence * 7, sequence, 1000, None);
            frame
        }

        fn receive(&mut self, frame: &[u8]) {
            self.checker.check(frame, frame.len(), 1000, 3000);
        }
    }

    /// As a balancer would: checksums follow.
    fn rewrite_destination(frame: &mut [u8], protocol: Protocol) {
        let before = u16::from_be_bytes([frame[IP + 18], frame[IP + 19]]);
        let difference =
            dataplane::packet::checksum::Difference::default().replace_u16(before, before ^ 0x0f0f);
        frame[IP + 18..IP + 20].copy_from_slice(&(before ^ 0x0f0f).to_be_bytes());
        let transport = TRANSPORT + if protocol == Protocol::Udp { 6 } else { 16 };
        for at in [IP + 10, transport] {
            let check = difference.apply(u16::from_be_bytes([frame[at], frame[at + 1]]));
            frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
    }

    #[test]
    fn what_comes_back_changed_as_a_balancer_changes_it_is_received() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut fixture = Fixture::new(protocol, 90, true);
            for sequence in 0..100 {
                let mut frame = fixture.frame(sequence);
                frame[..12].fill(0x22);
                rewrite_destination(&mut frame, protocol);
                fixture.receive(&frame);
            }
            let damage = fixture.checker.first_damage();
            assert_eq!(fixture.checker.counts(), Counts { received: 100, ..Counts::default() }, "{damage:?}");
        }
    }

    #[test]
    fn latency_is_what_has_gone_by_since_the_stamp() {
        let mut fixture = Fixture::new(Protocol::Udp, 60, false);
        let frame = fixture.frame(0);
        fixture.receive(&frame);
        let latency = fixture.checker.latency();
        assert_eq!((latency.len(), latency.max()), (1, (3000 >> TICK_SHIFT) - 1000));
    }

    #[test]
    fn every_kind_of_damage_is_found_and_named() {
        type Harm = fn(&mut Vec<u8>);
        let cases: [(&str, Harm); 6] = [
            ("another length", |frame| frame.push(0)),
            ("not of the client", |frame| frame[IP + 13] ^= 1),
            ("not of the client", |frame| frame[TRANSPORT + 1] ^= 1),
            ("no frame was sent", |frame| frame[TRANSPORT + 14] = 1),
            ("a checksum", |frame| frame[89] ^= 1),
            ("a checksum", |frame| frame[IP + 8] -= 1),
        ];
        for (name, harm) in cases {
            let mut fixture = Fixture::new(Protocol::Udp, 90, name == "a checksum");
            let mut frame = fixture.frame(5);
            harm(&mut frame);
            fixture.receive(&frame);
            assert_eq!(fixture.checker.counts(), Counts { damaged: 1, ..Counts::default() }, "{name}");
            let words = fixture.checker.first_damage().unwrap();
            assert!(words.contains(name), "{words}");
        }
    }

    #[test]
    fn what_is_not_ours_is_no_damage() {
        let mut fixture = Fixture::new(Protocol::Udp, 60, true);
        let mut stale = fixture.frame(1);
        stale[TRANSPORT + 9] ^= 0xff;
        let mut arp = fixture.frame(1);
        arp[IP - 1] = 6;
        let mut other = fixture.frame(1);
        other[TRANSPORT + 8] = 0;
        for frame in [stale.as_slice(), &arp, &other, &[]] {
            fixture.receive(frame);
        }
        assert_eq!(fixture.checker.counts(), Counts { stale: 1, foreign: 3, ..Counts::default() });
    }

    #[test]
    fn order_is_judged_by_the_highest_number_so_far() {
        let mut window = Window::new();
        use Place::{Again, InOrder, Late};
        let cases =
            [(0, InOrder), (1, InOrder), (5, InOrder), (3, Late), (3, Again), (5, Again), (6, InOrder)];
        for (sequence, expected) in cases {
            assert_eq!(window.observe(sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn every_number_counts_once_in_any_order_and_past_the_wrap() {
        let (mut window, mut random) = (Window::new(), fastrand::Rng::with_seed(2));
        let start = u32::MAX - 3 * WINDOW;
        window.next = start;
        let mut numbers: Vec<u32> = (0..6 * WINDOW).map(|n| start.wrapping_add(n)).collect();
        for chunk in numbers.chunks_mut(1000) {
            random.shuffle(chunk);
        }
        let first: Vec<_> = numbers.iter().map(|n| window.observe(*n)).collect();
        assert!(!first.contains(&Place::Again));
        let recent = &numbers[numbers.len() - 1000..];
        assert!(recent.iter().all(|n| window.observe(*n) == Place::Again));
    }

    #[test]
    fn a_gap_leaves_no_old_bits_behind() {
        let mut window = Window::new();
        (0..WINDOW).for_each(|n| assert_eq!(window.observe(n), Place::InOrder));
        assert_eq!(window.observe(WINDOW + 1000), Place::InOrder);
        assert_eq!(window.observe(WINDOW + 500), Place::Late);
        assert_eq!(window.observe(WINDOW + 1), Place::Late);
        // Further than the window reaches.
        assert_eq!(window.observe(5 * WINDOW), Place::InOrder);
        assert_eq!(window.observe(4 * WINDOW + 100), Place::Late);
    }
}
