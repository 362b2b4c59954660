//! A stream like a migration's: a process that looks like QEMU sends as QEMU does, and reports it on its monitor.

use std::env;
use std::io::{self, BufRead as _, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace_lab::{Host, Process, send_migration_status};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{MsgFlags, sendmsg};
use nix::unistd::{Pid, gettid};

use crate::cpu_time;

/// The first port that libvirt gives to migrations.
pub(crate) const PORT: u16 = 49152;
/// The environment variable that makes this program the sender: the address to send to.
const TARGET: &str = "MIGTRACE_BENCH_SEND_TO";
/// The first bytes of a RAM stream (`QEMU_VM_FILE_MAGIC`, migration/qemu-file.h).
const MAGIC: &[u8; 4] = b"QEVM";
/// How many pages QEMU passes to the kernel at once (`MAX_IOV_SIZE`, migration/qemu-file.c).
const PAGES_AT_ONCE: usize = 64;
const PAGE_BYTES: usize = 4096;
const NO_MONITOR: &str = "cannot write to the monitor";
/// A process that has not followed an order by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process that sends.
pub(crate) struct Sender {
    process: Process,
    orders: Option<ChildStdin>,
}

impl Sender {
    /// Starts it on `host`. It sends nothing yet.
    pub(crate) fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["-name", "guest=bench", "-m", "1024"]);
        command.args(["-uuid", "be0c4be0-c4be-4c4b-8e0c-4be0c4be0c4b"]);
        command.env(TARGET, to.to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = host.spawn(&mut command)?;
        let orders = process.child().stdin.take();
        Ok(Self { process, orders })
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu_time::of_process(self.process.id())
    }

    /// Lets it connect, and send as fast as it can.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.order()
    }

    /// Lets it end the migration and close the connection. It goes on living, as a QEMU does.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.order()
    }

    /// Lets it end.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.orders = None;
        let status = self.process.wait(PATIENCE)?;
        if !status.success() {
            bail!("the sender ended with {status}");
        }
        Ok(())
    }

    fn order(&mut self) -> Result<()> {
        let orders = self.orders.as_mut().context("the sender takes no orders")?;
        orders.write_all(b"\n").context("the sender has ended")
    }
}

/// Where to send to, if this process is to be the sender.
pub(crate) fn sender_target() -> Option<String> {
    env::var(TARGET).ok()
}

/// The work of the sender: one step for each line on its standard input.
pub(crate) fn send(target: &str) -> Result<()> {
    let (monitor, mut manager) = UnixStream::pair().context("cannot make a monitor")?;
    thread::spawn(move || io::copy(&mut manager, &mut io::sink()));
    stay_on_cpu(0)?;
    io::stdin().lock().read_line(&mut String::new())?;

    send_migration_status(&monitor, "setup").context(NO_MONITOR)?;
    let stream = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
    (&stream).write_all(MAGIC)?;
    send_migration_status(&monitor, "active").context(NO_MONITOR)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let orders = thread::spawn(move || {
        let read = io::stdin().lock().read_line(&mut String::new());
        stopped.store(true, Ordering::Relaxed);
        read
    });
    let page = [0; PAGE_BYTES];
    let pages = [IoSlice::new(&page); PAGES_AT_ONCE];
    while !stop.load(Ordering::Relaxed) {
        sendmsg::<()>(stream.as_raw_fd(), &pages, &[], MsgFlags::empty(), None).context("cannot send")?;
    }
    orders.join().map_err(|_| anyhow!("the thread that takes orders panicked"))??;
    send_migration_status(&monitor, "completed").context(NO_MONITOR)?;
    drop(stream);
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Keeps the calling thread on the `nth` of its CPUs: the placement of both ends by the scheduler makes more difference
/// than any tool.
fn stay_on_cpu(nth: usize) -> io::Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
    let mut chosen = CpuSet::new();
    chosen.set(cpus[nth % cpus.len()])?;
    Ok(sched_setaffinity(this_thread, &chosen)?)
}

/// The host that receives.
pub(crate) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

impl Receiver {
    /// Listens on `host`.
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let address = SocketAddr::from((host.ipv4(), PORT));
        let listener = host
            .enter(|| TcpListener::bind(address))?
            .with_context(|| format!("cannot listen at {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the next connection and reads it to its end.
    pub(crate) fn accept(&self) -> Result<Connection> {
        let started = Instant::now();
        let mut stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock && started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).context("the sender does not connect"),
            }
        };
        stream.set_nonblocking(false)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        let (id_sender, id) = mpsc::channel();
        let thread = thread::spawn(move || {
            // The other end waits for it.
            let _ = id_sender.send(gettid());
            stay_on_cpu(1)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => counted.fetch_add(read as u64, Ordering::Relaxed),
                };
            }
        });
        let id = id.recv().context("the receiver does not start")?;
        Ok(Connection { bytes, thread, id })
    }
}

/// A connection that is being read.
pub(crate) struct Connection {
    bytes: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
    /// Of the thread.
    id: Pid,
}

impl Connection {
    /// How many bytes have arrived.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The CPU time that reading has taken.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu_time::of_thread(self.id)
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Result<()> {
        let result = self.thread.join().map_err(|_| anyhow!("the receiver panicked"))?;
        result.context("cannot receive")
    }
}
