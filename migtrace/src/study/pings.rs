//! What `ping` has printed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::run::Pings;

/// The time between two echo requests, as in 2014.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// A sequence number has 16 bits.
const NUMBERS: u64 = 1 << 16;

/// Reads what `ping -n -i 0.2 -O ADDRESS` has printed while it ran for `ran`.
///
/// A request is lost if no answer to it came at all: a late one is an answer, a second one changes nothing. The last request
/// is left out unless it was answered: its answer was not waited for.
///
/// The host that ran it may write anything. Only lines of the known forms count, only answers of the address that was pinged,
/// and only as many requests as fit into the time.
///
/// # Errors
/// Why it says nothing: it is not what ping prints, or what ping cannot have seen.
pub fn parse(text: &str, ran: Duration) -> Result<Pings, String> {
    let mut lines = text.lines();
    let target = lines.by_ref().find_map(target).ok_or("ping has not begun")?;
    let mut seen = Seen::default();
    for line in lines {
        match Line::of(line, target) {
            Some(Line::Answer(number)) => seen.answered(number),
            Some(Line::Sent(number)) => seen.sent(number),
            Some(Line::Total(sent)) => seen.total(sent)?,
            None => {}
        }
    }
    seen.pings(ran)
}

/// The address of the first line: `PING web-1 (192.0.2.1) 56(84) bytes of data.`
fn target(line: &str) -> Option<IpAddr> {
    let words = line.strip_prefix("PING ")?;
    // With IPv6 and -n there is no name: `PING 2001:db8::1(2001:db8::1) 56 data bytes`.
    let (_, rest) = words.split_once('(')?;
    rest.split_once(')')?.0.parse().ok()
}

/// What a line says.
enum Line {
    /// A request was answered.
    Answer(u16),
    /// A request was sent.
    Sent(u16),
    /// How many were sent, at the end.
    Total(u64),
}

impl Line {
    fn of(line: &str, target: IpAddr) -> Option<Self> {
        if let Some(number) = line.strip_prefix("no answer yet for icmp_seq=") {
            return Some(Self::Sent(number.parse().ok()?));
        }
        if let Some((sent, _)) = line.split_once(" packets transmitted, ") {
            return Some(Self::Total(sent.parse().ok()?));
        }
        // `From 192.0.2.9 icmp_seq=5 Destination Host Unreachable`: anybody on the way can say so, and it is no answer.
        let (size, rest) = line.split_once(" bytes from ")?;
        size.parse::<u32>().ok()?;
        let (from, rest) = rest.split_once(": icmp_seq=")?;
        if from.parse::<IpAddr>().ok()? != target {
            return None;
        }
        let (number, rest) = rest.split_once(' ')?;
        let is_whole = rest.starts_with("ttl=") && !rest.contains("BAD CHECKSUM");
        let number = number.parse().ok()?;
        is_whole.then_some(Self::Answer(number))
    }
}

/// Which requests there were.
#[derive(Default)]
struct Seen {
    answered: BTreeSet<u64>,
    /// The latest that is known to have been sent.
    latest: u64,
    total: Option<u64>,
}

impl Seen {
    /// The whole number of a request: the one of its 16 bits that is nearest to the latest.
    fn whole(&self, number: u16) -> Option<u64> {
        let base = self.latest / NUMBERS * NUMBERS + u64::from(number);
        let candidates = [base.checked_sub(NUMBERS), Some(base), base.checked_add(NUMBERS)];
        candidates.into_iter().flatten().min_by_key(|candidate| candidate.abs_diff(self.latest))
    }

    fn answered(&mut self, number: u16) {
        // The first request has number 1.
        if let Some(whole) = self.whole(number).filter(|whole| *whole > 0) {
            self.latest = self.latest.max(whole);
            self.answered.insert(whole);
        }
    }

    fn sent(&mut self, number: u16) {
        self.latest = self.latest.max(self.whole(number).unwrap_or_default());
    }

    fn total(&mut self, sent: u64) -> Result<(), String> {
        match self.total.replace(sent) {
            Some(_) => Err("ping has given its totals twice".into()),
            None => Ok(()),
        }
    }

    fn pings(mut self, ran: Duration) -> Result<Pings, String> {
        let last = self.total.unwrap_or(self.latest);
        let most = ran.as_nanos().div_ceil(INTERVAL.as_nanos()) + 2;
        if u128::from(last.max(self.latest)) > most {
            let what = last.max(self.latest);
            return Err(format!("ping shows {what} requests in {:.1} s, which cannot be", ran.as_secs_f64()));
        }
        if last < self.latest {
            return Err(format!("ping shows request {} of {last}", self.latest));
        }
        if last == 0 {
            return Err("ping has sent nothing".into());
        }
        if self.answered.is_empty() {
            return Err("no ping was answered".into());
        }
        let sent = if self.answered.contains(&last) { last } else { last - 1 };
        self.answered.retain(|number| *number <= sent);
        let lost = sent - self.answered.len() as u64;
        let interval_ns = u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        Ok(Pings { interval_ns, sent, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "PING 10.77.0.10 (10.77.0.10) 56(84) bytes of data.\n";

    fn answer(number: u32) -> String {
        format!("64 bytes from 10.77.0.10: icmp_seq={number} ttl=64 time=0.339 ms\n")
    }

    fn read(lines: &str) -> Result<(u64, u64), String> {
        let read = parse(&format!("{HEAD}{lines}"), Duration::from_secs(4));
        read.map(|pings| (pings.sent, pings.lost))
    }

    #[test]
    fn requests_that_nothing_answers_are_lost_also_the_last_ones() {
        let answers: String = [1, 2, 5].map(answer).concat();
        let waits = "no answer yet for icmp_seq=6\nno answer yet for icmp_seq=7\n";
        let end = "\n--- 10.77.0.10 ping statistics ---\n8 packets transmitted, 3 received, 62.5% packet loss, time 1405ms\n";
        // 3, 4, 6 and 7. Whether 8 would have been answered is not known.
        assert_eq!(read(&format!("{answers}{waits}{end}")), Ok((7, 4)));
        // A ping that was killed gives no totals. The one after the last that was waited for is not known of.
        assert_eq!(read(&format!("{answers}{waits}")), Ok((6, 3)));
        assert_eq!(read(&answers), Ok((5, 2)));
    }

    #[test]
    fn late_and_repeated_answers_are_no_losses() {
        let text = format!(
            "{}no answer yet for icmp_seq=2\n{}{}64 bytes from 10.77.0.10: icmp_seq=1 ttl=64 time=2 ms (DUP!)\n{}",
            answer(1),
            answer(3),
            answer(2),
            "4 packets transmitted, 3 received, +1 duplicates, 25% packet loss, time 600ms\n"
        );
        assert_eq!(read(&text), Ok((3, 0)));
    }

    #[test]
    fn numbers_go_on_after_65535() {
        let numbers: String = (1..=65_540u32).map(|number| answer(number % 65_536)).collect();
        let lost = numbers.replace("icmp_seq=65535 ", "icmp_sequence ");
        let pings = parse(&format!("{HEAD}{lost}"), Duration::from_secs(14_000)).unwrap();
        assert_eq!((pings.sent, pings.lost), (65_540, 1));
    }

    #[test]
    fn ipv6_and_names_are_read_too() {
        let v6 = "PING 2001:db8::1(2001:db8::1) 56 data bytes\n64 bytes from 2001:db8::1: icmp_seq=1 ttl=64 time=1 ms\n";
        assert_eq!(parse(v6, INTERVAL).map(|pings| (pings.sent, pings.lost)), Ok((1, 0)));
        let named = format!("PING web-1 (10.77.0.10) 56(84) bytes of data.\n{}", answer(1));
        assert!(parse(&named, INTERVAL).is_ok());
    }

    #[test]
    fn nobody_can_make_numbers_up() {
        let first = answer(1);
        // Answers of somebody else, of broken packets, and lines that only look like some.
        for line in [
            "64 bytes from 10.77.0.66: icmp_seq=2 ttl=64 time=1 ms\n",
            "64 bytes from 10.77.0.66: icmp_seq=2 ttl=64 time=1 ms (DIFFERENT ADDRESS!)\n",
            "64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=1 ms (BAD CHECKSUM!)\n",
            "64 bytes from 10.77.0.10: icmp_seq=99999 ttl=64 time=1 ms\n",
            "64 bytes from 10.77.0.10: icmp_seq=-2 ttl=64 time=1 ms\n",
            "x64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=1 ms\n",
            "From 10.77.0.1 icmp_seq=2 Destination Host Unreachable\n",
            "no answer yet for icmp_seq=2 64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=1 ms\n",
            "-3 packets transmitted, 9 received\n",
            "99999999999999999999999 packets transmitted, 9 received\n",
        ] {
            assert_eq!(read(&format!("{first}{line}")), Ok((1, 0)), "{line}");
        }
        for (lines, why) in [
            (format!("{first}no answer yet for icmp_seq=30000\n"), "30000 requests in 4.0 s"),
            (format!("{first}{}", answer(30_000)), "30000 requests in 4.0 s"),
            (format!("{first}4000000000 packets transmitted, 1 received\n"), "4000000000 requests"),
            (format!("{first}{}1 packets transmitted, 1 received\n", answer(3)), "request 3 of 1"),
            (format!("{first}{0}{0}", "2 packets transmitted, 1 received\n"), "totals twice"),
            ("5 packets transmitted, 0 received\n".into(), "no ping was answered"),
            (String::new(), "ping has sent nothing"),
        ] {
            let error = read(&lines).unwrap_err();
            assert!(error.contains(why), "{lines}: {error}");
        }
        assert_eq!(parse("ping: unknown host\n", INTERVAL).unwrap_err(), "ping has not begun");
    }
}
