//! One booted guest for all tests of a program: booting takes longer than migrating.

use crate::Lab;
use anyhow::Result;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// The shared lab of this program's tests, for one test at a time. Its guest runs on [`Lab::guest_host`], wherever the
/// previous test has left it.
///
/// Dropping this pauses the guest, so that it takes no CPU time from tests without it.
#[derive(Debug)]
pub struct SharedLab(MutexGuard<'static, Option<Lab>>);

/// Takes the shared lab, with its guest running. The first call boots it; it dirties 48 MiB at 40 MiB/s.
///
/// After a test that panicked with it, the next call makes a new lab. The lab's janitor removes it when the program ends.
///
/// # Errors
///
/// As [`crate::Builder::start`] and [`Lab::wait_guest_ready`], and when QEMU does not continue the guest.
pub fn shared_lab() -> Result<SharedLab> {
    let mut slot = LAB.lock().unwrap_or_else(|poisoned| {
        LAB.clear_poison();
        let mut slot = PoisonError::into_inner(poisoned);
        *slot = None;
        slot
    });
    match slot.take() {
        // On an error this lab is dropped, and the next test gets a new one.
        Some(mut lab) => {
            lab.continue_guest()?;
            *slot = Some(lab);
        }
        None => {
            let name = format!("shared-{}", std::process::id());
            let mut lab = Lab::builder().name(&name).memory_mib(192).dirty(48, 40).start()?;
            lab.wait_guest_ready()?;
            *slot = Some(lab);
        }
    }
    Ok(SharedLab(slot))
}

impl Deref for SharedLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("it was filled when it was taken")
    }
}

impl DerefMut for SharedLab {
    fn deref_mut(&mut self) -> &mut Lab {
        self.0.as_mut().expect("it was filled when it was taken")
    }
}

impl Drop for SharedLab {
    fn drop(&mut self) {
        // A lab that cannot be paused is of no use to the next test.
        if !std::thread::panicking() && self.pause_guest().is_err() {
            *self.0 = None;
        }
    }
}
