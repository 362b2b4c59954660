//! The words in a record that a program may want to compare: methods, phases and marks. Each enum has those that this
//! version knows; a word of another version is kept unchanged. In JSON they are plain strings.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Declares an enum of words: its variants, their spelling, and `Other` for every other word.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$what])* $variant,)+
            /// A word that this version does not know.
            Other(String),
        }

        impl $name {
            /// The word itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(Cow::<'de, str>::deserialize(deserializer)?.as_ref()))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": "One of the words under `examples`, or one of another version.",
                    "type": "string",
                    "examples": [$($word),+],
                })
            }
        }
    };
}

words! {
    /// How a length of time was measured.
    Method {
        /// Between two events of QEMU.
        QmpEvents = "qmp-events",
        /// From the first packet to an event of QEMU.
        FirstPacketToQmpEvent = "first-packet-to-qmp-event",
        /// Between the first packet and the last.
        FirstAndLastPacket = "first-and-last-packet",
        /// To the end of QEMU's process, or to its last reply: either is seen later than what it shows happened.
        LastSignOfLife = "last-sign-of-life",
        /// From the last vCPU that left KVM to the first that entered it.
        Vcpus = "vcpus",
        /// From the last vCPU that left KVM to QEMU's event.
        VcpusToQmpEvent = "vcpus-to-qmp-event",
        /// From QEMU's event to the first vCPU that entered KVM.
        QmpEventToVcpus = "qmp-event-to-vcpus",
        /// From the last vCPU that left KVM to the first reply.
        VcpusToFirstReply = "vcpus-to-first-reply",
        /// From QEMU's event to the first reply.
        QmpEventToFirstReply = "qmp-event-to-first-reply",
        /// From the last vCPU that left KVM to the last byte of the memory stream: a lower bound.
        VcpusToLastByte = "vcpus-to-last-byte",
        /// From QEMU's event to the last byte of the memory stream: a lower bound.
        QmpEventToLastByte = "qmp-event-to-last-byte",
        /// From the last reply to the first vCPU that entered KVM.
        LastReplyToVcpus = "last-reply-to-vcpus",
        /// From the last reply to QEMU's event.
        LastReplyToQmpEvent = "last-reply-to-qmp-event",
        /// Between two instants that the two QEMUs or their hosts have reported.
        BetweenMarks = "between-marks",
        /// Between two frames of the guest at its taps.
        FramesAtTaps = "frames-at-taps",
        /// Requests in the gap were never answered.
        LostRequests = "lost-requests",
        /// Replies to requests in the gap came late.
        DelayedReplies = "delayed-replies",
        /// Later requests were answered first. The gap is only possible.
        OvertakenRequests = "overtaken-requests",
        /// The gap had not ended when the observation did.
        Open = "open",
        /// Every request was answered: no gap was longer than the time between two requests and a round trip.
        NoGap = "no-gap",
        /// The difference of two others.
        ReachabilityLessStop = "reachability-less-stop",
    }
}

impl Method {
    /// Whether it gives only a lower bound of the stop.
    pub(crate) const fn is_from_below(&self) -> bool {
        matches!(self, Self::VcpusToLastByte | Self::QmpEventToLastByte)
    }

    /// Whether a reply stands in for an edge of the stop.
    pub(crate) const fn takes_a_reply(&self) -> bool {
        matches!(
            self,
            Self::VcpusToFirstReply
                | Self::QmpEventToFirstReply
                | Self::LastReplyToVcpus
                | Self::LastReplyToQmpEvent
        )
    }
}

words! {
    /// How the clocks of two hosts are known to relate.
    AlignmentMethod {
        /// Both hosts have stamped packets of the migration's own connections, and none arrives before it is sent.
        Tcp = "tcp",
        /// One host has read the other's clock over the connection between the two recordings, or a third has read both.
        ControlConnection = "control-connection",
        /// From the wall clocks of the two hosts, whose error nobody knows.
        WallClock = "wall-clock",
    }
}

words! {
    /// What QEMU was doing: its own word where it has one (`MigrationStatus` in qapi/migration.json).
    PhaseName {
        /// The destination waits for the source to connect.
        Listening = "listening",
        /// The disks are copied before the memory.
        DiskSync = "disk-sync",
        /// Packets crossed before the first event was seen.
        Unseen = "unseen",
        /// QEMU reports no phases: only its connections are known.
        Transfer = "transfer",
        /// QEMU prepares.
        Setup = "setup",
        /// QEMU waits for a device to be unplugged.
        WaitUnplug = "wait-unplug",
        /// Memory is copied while the guest runs.
        Active = "active",
        /// A person or an error paused the guest, and it is resumed here.
        Paused = "paused",
        /// The guest is stopped.
        Stop = "stop",
        /// The guest is stopped, and QEMU waits for its manager.
        PreSwitchover = "pre-switchover",
        /// The devices' state is sent.
        Device = "device",
        /// Post-copy: the devices' state is on its way.
        PostcopyDevice = "postcopy-device",
        /// Post-copy: the guest runs at the destination, and its memory follows.
        PostcopyActive = "postcopy-active",
        /// Post-copy: the connection broke.
        PostcopyPaused = "postcopy-paused",
        /// Post-copy: a new connection is made.
        PostcopyRecoverSetup = "postcopy-recover-setup",
        /// Post-copy: a new connection is in use.
        PostcopyRecover = "postcopy-recover",
        /// The guest runs on both hosts in step.
        Colo = "colo",
        /// QEMU is giving up.
        Cancelling = "cancelling",
        /// QEMU has given up.
        Cancelled = "cancelled",
        /// QEMU has failed, or died.
        Failed = "failed",
        /// QEMU is done.
        Completed = "completed",
    }
}

words! {
    /// What the two QEMUs do, one after the other, while the guest is stopped.
    PartName {
        /// The source stops the vCPUs and waits for I/O that is under way.
        Drain = "drain",
        /// The source waits for its manager: for the disks' copy, for one.
        PreSwitchover = "pre-switchover",
        /// The source gives up its disks.
        Inactivate = "inactivate",
        /// The source gives up its disks, and sends the last pages and the devices' state. QEMU has reported no last pass,
        /// so it is not known how much of it each took.
        Switchover = "switchover",
        /// The source sends the pages that were still dirty, and then the devices' state; the destination receives them.
        LastPass = "last-pass",
        /// The source sends the devices' state.
        DeviceState = "device-state",
        /// The destination loads what it has received.
        Load = "load",
        /// The destination is ready, and waits for its manager to let the guest run.
        AwaitResume = "await-resume",
        /// The destination has said that the guest runs, until the first vCPU does.
        Start = "start",
    }
}

words! {
    /// What happened at an instant of a migration. QEMU's states after the stop are marks too, under their names.
    MarkName {
        /// The first vCPU left KVM for the last time.
        FirstVcpuStopped = "first-vcpu-stopped",
        /// The last vCPU left KVM for the last time.
        AllVcpusStopped = "all-vcpus-stopped",
        /// The last frame of the guest came through its taps at the source.
        LastGuestFrame = "last-guest-frame",
        /// QEMU reported STOP.
        Stop = "stop",
        /// The last pass began.
        LastPass = "last-pass",
        /// QEMU waits for its manager.
        PreSwitchover = "pre-switchover",
        /// The devices' state is sent.
        Device = "device",
        /// Post-copy has begun.
        PostcopyActive = "postcopy-active",
        /// The last byte of the memory stream crossed for the first time.
        LastByte = "last-byte",
        /// The last packet of the migration crossed.
        LastPacket = "last-packet",
        /// QEMU reported that the migration has completed.
        Completed = "completed",
        /// QEMU reported that the migration has failed.
        Failed = "failed",
        /// QEMU reported that it is giving up.
        Cancelling = "cancelling",
        /// QEMU reported that it has given up.
        Cancelled = "cancelled",
        /// The guest's place was announced to the network.
        FirstAnnouncement = "first-announcement",
        /// QEMU reported RESUME.
        Resume = "resume",
        /// The first vCPU entered KVM.
        FirstVcpuRun = "first-vcpu-run",
        /// The first frame of the guest came through its taps.
        FirstGuestFrame = "first-guest-frame",
        /// The last answered echo request before the gap was sent.
        LastAnsweredRequest = "last-answered-request",
        /// The first reply came after the gap.
        FirstReply = "first-reply",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_another_version_is_kept_as_it_is() {
        let json = r#""quantum-entangled""#;
        let phase: PhaseName = serde_json::from_str(json).unwrap();
        assert_eq!(phase, PhaseName::Other("quantum-entangled".to_owned()));
        assert_eq!(serde_json::to_string(&phase).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<PhaseName>(r#""pre-switchover""#).unwrap(),
            PhaseName::PreSwitchover
        );
    }
}
