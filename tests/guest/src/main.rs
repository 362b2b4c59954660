//! The init process of the lab's guests.
//!
//! It loads the modules of its initramfs, configures `eth0` from the kernel command line (from then on the kernel answers
//! ping), fills some memory, writes `guest: ready` to the console, and then dirties that memory at a steady rate, for ever.
//!
//! Kernel command line: `lab.ip=10.77.0.10/24 lab.ip6=fd77::10/64 lab.gateway=10.77.0.1 lab.dirty_mib=64
//! lab.dirty_mib_per_s=100`; all of them are optional.

mod config;
mod memory;
mod network;
mod system;

use std::error::Error;

fn main() {
    if let Err(error) = run() {
        // When init ends, the kernel panics. With `panic=-1` and `-no-reboot` QEMU ends too, and the lab shows this line.
        println!("guest: failed: {error}");
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    system::mount_filesystems()?;
    let config = config::Config::from_command_line(&std::fs::read_to_string("/proc/cmdline")?)?;
    system::load_modules()?;
    network::configure(&config)?;
    let memory = memory::Memory::filled(config.dirty_mib);
    println!("guest: ready");
    memory.dirty_for_ever(config.dirty_mib_per_s)
}
