//! The counters of whole interfaces, from `/proc/net/dev`.

use std::collections::BTreeMap;

use super::run::Meter;

/// The counters of each interface: bytes sent and received.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters(BTreeMap<String, [u64; 2]>);

/// What was counted between two readings, and at which interfaces that is not known.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metered {
    /// What was counted.
    pub meter: Meter,
    /// Interfaces that came, went or began to count anew.
    pub unknown: Vec<String>,
}

impl Counters {
    /// Reads `/proc/net/dev`.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        let mut lines = text.lines();
        let head = [lines.next(), lines.next()];
        if !head.iter().all(|line| line.is_some_and(|line| line.contains('|'))) {
            return Err("it is not /proc/net/dev".into());
        }
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let odd = || format!("`{}` is no line of /proc/net/dev", line.trim());
            let (name, numbers) = line.split_once(':').ok_or_else(odd)?;
            let numbers: Result<Vec<u64>, _> = numbers.split_whitespace().map(str::parse).collect();
            let numbers = numbers.ok().filter(|numbers| numbers.len() == 16).ok_or_else(odd)?;
            if all.insert(name.trim().to_owned(), [numbers[8], numbers[0]]).is_some() {
                return Err(format!("{} is there twice", name.trim()));
            }
        }
        Ok(Self(all))
    }

    /// What was counted since an earlier reading on this host: at one interface, or at all but the loopback interface.
    ///
    /// # Errors
    /// Nothing can be said.
    pub fn since(
        &self,
        before: &Self,
        host: Option<&str>,
        interface: Option<&str>,
    ) -> Result<Metered, String> {
        let is_meant = |name: &str| interface.map_or(name != "lo", |interface| name == interface);
        let names = before.0.keys().chain(self.0.keys()).filter(|name| is_meant(name));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names.dedup();
        let mut meter =
            Meter { host: host.map(str::to_owned), interfaces: Vec::new(), tx_bytes: 0, rx_bytes: 0 };
        let mut unknown = Vec::new();
        for name in names {
            let grown =
                self.0.get(name).zip(before.0.get(name)).and_then(|(now, then)| {
                    Some((now[0].checked_sub(then[0])?, now[1].checked_sub(then[1])?))
                });
            match grown {
                Some((tx, rx)) => {
                    meter.interfaces.push(name.clone());
                    meter.tx_bytes = meter.tx_bytes.saturating_add(tx);
                    meter.rx_bytes = meter.rx_bytes.saturating_add(rx);
                }
                None => unknown.push(name.clone()),
            }
        }
        if !meter.interfaces.is_empty() {
            return Ok(Metered { meter, unknown });
        }
        Err(match interface {
            Some(name) if unknown.is_empty() => format!("there is no interface {name}"),
            Some(name) => format!("{name} came, went or began to count anew meanwhile"),
            None => "there is no interface but lo that was there all the time".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(lines: &[(&str, u64, u64)]) -> Counters {
        let head = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n";
        let line =
            |(name, tx, rx): &(&str, u64, u64)| format!("{name:>6}: {rx} 7 0 0 0 0 0 0 {tx} 9 0 0 0 0 0 0\n");
        Counters::parse(&format!("{head}{}", lines.iter().map(line).collect::<String>())).unwrap()
    }

    #[test]
    fn the_growth_of_all_interfaces_but_lo_is_counted() {
        let before = counters(&[("lo", 5, 5), ("eth0", 1000, 50), ("eth1", 7, 7)]);
        let after = counters(&[("lo", 500, 500), ("eth0", 1500, 80), ("eth1", 7, 9)]);
        let Metered { meter, unknown } = after.since(&before, Some("src"), None).unwrap();
        assert_eq!((meter.tx_bytes, meter.rx_bytes), (500, 32));
        assert_eq!(
            (meter.interfaces, meter.host.as_deref()),
            (vec!["eth0".into(), "eth1".into()], Some("src"))
        );
        assert!(unknown.is_empty());
        let one = after.since(&before, None, Some("eth1")).unwrap().meter;
        assert_eq!((one.tx_bytes, one.rx_bytes, one.interfaces), (0, 2, vec!["eth1".into()]));
    }

    #[test]
    fn what_comes_goes_or_counts_anew_is_named() {
        let before = counters(&[("eth0", 10, 10), ("tap0", 5, 5), ("eth2", 9, 9)]);
        let after = counters(&[("eth0", 20, 20), ("tap1", 5, 5), ("eth2", 0, 99)]);
        let Metered { meter, unknown } = after.since(&before, None, None).unwrap();
        assert_eq!((meter.tx_bytes, meter.rx_bytes), (10, 10));
        assert_eq!(unknown, ["eth2", "tap0", "tap1"]);
        assert!(after.since(&before, None, Some("tap0")).unwrap_err().contains("came, went"));
        assert_eq!(after.since(&before, None, Some("eth9")).unwrap_err(), "there is no interface eth9");
    }

    #[test]
    fn something_else_is_refused() {
        for text in
            ["", "cat: /proc/net/dev: No such file", "a|b\nc|d\n eth0: 1 2 3\n", "a|b\nc|d\n eth0 -1\n"]
        {
            assert!(Counters::parse(text).is_err(), "{text}");
        }
        let twice = format!("a|b\nc|d\n{0}{0}", " eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
        assert_eq!(Counters::parse(&twice).unwrap_err(), "eth0 is there twice");
    }
}
