//! Why an address cannot be probed.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::kernel::KernelError;

/// Why an address cannot be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// This host refused something.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("no interface `{name}`; this network namespace has: {}", present.join(", "))]
    NoSuchInterface {
        /// The requested interface.
        name: String,
        /// The interfaces that exist.
        present: Vec<String>,
    },
    /// The route to the address leaves through an interface that cannot be watched.
    #[error("cannot watch {target} at `{interface}`: {why}")]
    Unfit {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// The reason, and what to do.
        why: &'static str,
    },
    /// No request left this host.
    #[error(
        "no echo request to {target} left `{interface}` in {} s: its neighbour (the address itself or the gateway) does \
         not answer ARP or neighbour discovery, or a firewall on this host drops them",
        patience.as_secs()
    )]
    NotSent {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// For how long it was tried.
        patience: Duration,
    },
    /// The address does not answer.
    #[error(
        "{target} does not answer: {sent} echo requests in {} s, no reply at `{interface}`; is the guest up, does a \
         firewall or security group drop ICMP echo, do replies come back through another interface (--interface)?",
        patience.as_secs()
    )]
    NoAnswer {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// How many requests were sent.
        sent: u64,
        /// For how long.
        patience: Duration,
    },
    /// Requests are lost although nothing has happened yet.
    #[error(
        "{target} answered {answered} of {sent} echo requests before the observation: loss or a rate limit (nftables, a \
         security group, a switch's control plane) would be taken for downtime; try --interval {}, or accept it with \
         --no-preflight",
        crate::units::duration_argument(*suggested)
    )]
    Lossy {
        /// The address.
        target: IpAddr,
        /// How many requests were sent.
        sent: u64,
        /// How many were answered.
        answered: u64,
        /// An interval at which the address may answer all.
        suggested: Duration,
    },
}

/// This host refused to do `what`.
pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> ProbeError {
    move |source| ProbeError::Host { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_cause_and_does_not_repeat_it() {
        let cause = io::Error::from_raw_os_error(1);
        let words = cause.to_string();
        let error = host("open a socket")(cause);
        assert_eq!(error.to_string(), "cannot open a socket");
        assert_eq!(std::error::Error::source(&error).map(ToString::to_string), Some(words));
    }
}
