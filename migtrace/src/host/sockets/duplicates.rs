//! How often payload has come that had come before, on any connection of this network namespace.

use std::fs;

/// The kernel's own count of that; `None` when it cannot be read. A socket counts the segments that come, but the payload in them
/// only once.
pub(crate) fn duplicates() -> Option<u64> {
    number(&fs::read_to_string("/proc/thread-self/net/netstat").ok()?)
}

fn number(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    // The acknowledgement of what comes again was lost, or late.
    let at = names.split(' ').position(|name| name == "DelayedACKLost")?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_by_its_name() {
        let netstat =
            "TcpExt: SyncookiesSent DelayedACKLost TW\nTcpExt: 1 27 3\nIpExt: InNoRoutes\nIpExt: 5\n";
        assert_eq!(number(netstat), Some(27));
        assert_eq!(number("TcpExt: TW\nTcpExt: 3\n"), None);
        assert_eq!(number(""), None);
        assert!(duplicates().is_some());
    }
}
