//! One booted guest for all tests of a program: to boot takes longer than to migrate.

use crate::Lab;
use anyhow::Result;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// The lab of this program's tests, for one test at a time. Its guest runs on [`Lab::guest_host`], wherever the test
/// before has left it.
#[derive(Debug)]
pub struct Shared(MutexGuard<'static, Option<Lab>>);

/// Takes the shared lab; the first test to do so boots its guest, which dirties 48 MiB at 40 MiB/s.
///
/// When a test has failed with it, the next one gets a new lab. Its end is the program's: the lab's janitor cleans up.
///
/// # Errors
///
/// As [`crate::Builder::start`] and [`Lab::wait_guest_ready`].
pub fn shared() -> Result<Shared> {
    let mut slot = LAB.lock().unwrap_or_else(|poisoned| {
        LAB.clear_poison();
        let mut slot = PoisonError::into_inner(poisoned);
        *slot = None;
        slot
    });
    if slot.is_none() {
        let mut lab = Lab::builder().memory_mib(192).dirty(48, 40).start()?;
        lab.wait_guest_ready()?;
        *slot = Some(lab);
    }
    Ok(Shared(slot))
}

impl Deref for Shared {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("it was filled when it was taken")
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Lab {
        self.0.as_mut().expect("it was filled when it was taken")
    }
}
