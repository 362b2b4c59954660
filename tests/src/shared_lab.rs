//! One booted guest for all tests of a program: booting takes longer than migrating.

use crate::{Host, Lab, LibvirtLab};
use anyhow::Result;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LAB: Mutex<Option<Lab>> = Mutex::new(None);
static LIBVIRT_LAB: Mutex<Option<LibvirtLab>> = Mutex::new(None);

/// A lab whose guest can wait for the next test.
pub trait SharedGuest: Sized {
    /// Starts a lab and waits until its guest is ready.
    ///
    /// # Errors
    ///
    /// When it does not start, or the guest does not become ready.
    fn start() -> Result<Self>;

    /// Stops the guest's vCPUs.
    ///
    /// # Errors
    ///
    /// When QEMU does not.
    fn pause(&mut self) -> Result<()>;

    /// Lets the guest's vCPUs run again.
    ///
    /// # Errors
    ///
    /// When QEMU does not.
    fn resume(&mut self) -> Result<()>;
}

/// A lab that the tests of this program share, for one test at a time. Its guest runs wherever the previous test has left
/// it.
///
/// Dropping this pauses the guest, so that it takes no CPU time from tests without it.
#[derive(Debug)]
pub struct Shared<L: SharedGuest + 'static>(MutexGuard<'static, Option<L>>);

/// Takes the shared lab, with its guest running. The first call boots it; it dirties 48 MiB at 40 MiB/s.
///
/// After a test that panicked with it, the next call makes a new lab. The lab's janitor removes it when the program ends.
///
/// # Errors
///
/// As [`crate::Builder::start`] and [`Lab::wait_guest_ready`], and when QEMU does not continue the guest.
pub fn shared_lab() -> Result<Shared<Lab>> {
    take(&LAB)
}

/// As [`shared_lab`], with libvirt. Its guest dirties 32 MiB at 40 MiB/s and has a disk of 24 MiB, and real frames cross the
/// uplinks of its hosts.
///
/// # Errors
///
/// As [`crate::Builder::start_with_libvirt`] and [`LibvirtLab::wait_guest_ready`], and when libvirt does not continue the
/// guest.
pub fn shared_libvirt_lab() -> Result<Shared<LibvirtLab>> {
    take(&LIBVIRT_LAB)
}

fn take<L: SharedGuest>(lab: &'static Mutex<Option<L>>) -> Result<Shared<L>> {
    let mut slot = lab.lock().unwrap_or_else(|poisoned| {
        lab.clear_poison();
        let mut slot = PoisonError::into_inner(poisoned);
        *slot = None;
        slot
    });
    match slot.take() {
        // On an error this lab is dropped, and the next test gets a new one.
        Some(mut lab) => {
            lab.resume()?;
            *slot = Some(lab);
        }
        None => *slot = Some(L::start()?),
    }
    Ok(Shared(slot))
}

impl SharedGuest for Lab {
    fn start() -> Result<Self> {
        let name = format!("shared-{}", std::process::id());
        let mut lab = Self::builder().name(&name).memory_mib(192).dirty(48, 40).start()?;
        lab.wait_guest_ready()?;
        Ok(lab)
    }

    fn pause(&mut self) -> Result<()> {
        self.pause_guest()
    }

    fn resume(&mut self) -> Result<()> {
        self.continue_guest()
    }
}

impl SharedGuest for LibvirtLab {
    fn start() -> Result<Self> {
        let name = format!("libvirt-{}", std::process::id());
        let builder = Lab::builder().name(&name).memory_mib(160).dirty(32, 40).disk_mib(24);
        let lab = builder.start_with_libvirt()?;
        for host in lab.hosts() {
            host.set_offloads(Host::UPLINK, &["tso", "gso"], false)?;
            for interface in [Host::BRIDGE, Host::UPLINK] {
                host.set_offloads(interface, &["gro"], false)?;
            }
        }
        lab.wait_guest_ready()?;
        Ok(lab)
    }

    fn pause(&mut self) -> Result<()> {
        self.pause_guest()
    }

    fn resume(&mut self) -> Result<()> {
        self.continue_guest()
    }
}

impl<L: SharedGuest> Deref for Shared<L> {
    type Target = L;

    fn deref(&self) -> &L {
        self.0.as_ref().expect("it was filled when it was taken")
    }
}

impl<L: SharedGuest> DerefMut for Shared<L> {
    fn deref_mut(&mut self) -> &mut L {
        self.0.as_mut().expect("it was filled when it was taken")
    }
}

impl<L: SharedGuest> Drop for Shared<L> {
    fn drop(&mut self) {
        // A lab that cannot be paused is of no use to the next test.
        if !std::thread::panicking() && self.pause().is_err() {
            *self.0 = None;
        }
    }
}
