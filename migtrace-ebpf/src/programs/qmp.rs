//! Reads the QMP events that a traced QEMU writes to its monitor, while it writes them, with the counters of its
//! flows.
//!
//! Replies and commands are not copied: only writes that begin like an event, and at a monitor with `pretty=on` the
//! lines after such a write. Only `sendmsg` is read, by which QEMU writes to a socket. To a pipe, a terminal or a
//! file it writes by `write`, which is not read.

use aya_ebpf::{
    helpers::{bpf_probe_read_user, bpf_probe_read_user_buf},
    programs::TracePointContext,
};
use core::slice;
use migtrace_ebpf::{
    abi::{EventHeader, QMP_LINE_MAX, QmpLine, Sums, Vcpus, content, kind, lost, shared},
    budget,
    qmp_write::{Beginning, Content, LOOKED_AT},
};

use super::{
    maps::{self, LINE, LINES, Line},
    opening, ownership, process, socket, tap, vcpu,
};

/// `struct user_msghdr` and `struct iovec` are user-space ABI: the same on every 64-bit kernel.
const MSG_IOV: u64 = 16;
const MSG_IOVLEN: u64 = 24;
const IOVEC_SIZE: u64 = 16;

/// How many pieces (`struct iovec`) of a message are read. QEMU writes an event as one piece.
const PIECES: u64 = 4;

/// A process calls `sendmsg(fd, message)`.
#[inline(always)]
pub(crate) fn sendmsg(fd: u32, message: u64) {
    let Some((tgid, process)) = process::known() else { return };
    if read(fd, message, tgid, process) {
        return;
    }
    if ownership::is_any_awaited() {
        socket::tie(fd);
    }
    if opening::are_noted() {
        opening::wrote(fd, first_piece(message));
    }
}

/// Where the first piece of a message is; 0 when that cannot be read.
#[inline(always)]
fn first_piece(message: u64) -> u64 {
    user(message + MSG_IOV).and_then(user).unwrap_or(0)
}

/// Passes a write on to user space if it is an event or a part of one; returns whether it is.
///
/// A write that begins in another way is not read further. So an event is missed when QEMU writes it together with a
/// reply before it, or with the rest of a line that was written in part. QEMU does so while nobody reads its monitor
/// and the socket is full.
#[inline(always)]
fn read(fd: u32, message: u64, tgid: u32, process: &shared::Process) -> bool {
    let Some(pieces) = Pieces::of(message) else { return false };
    // Nothing else on this CPU uses it meanwhile: the task is not preempted while a program runs at `sendmsg`.
    let Some(line) = LINE.get_ptr_mut(0) else { return false };
    let is_inside = process.inside_event.get() == fd.wrapping_add(1);
    let content = match beginning(&pieces, line).content(is_inside) {
        None => content::NONE,
        Some(Content::Whole) => content::WHOLE,
        Some(Content::SecondLine) => content::SECOND_LINE,
        Some(Content::Line) => content::LINE,
        Some(Content::LastLine) => content::LAST_LINE,
    };
    // SAFETY: `line` is the map's value.
    let mut content = unsafe { forget(&raw mut (*line).head.content, content) };
    // QEMU sends the guest's pages too, and a guest may fill them with text that looks like events.
    if content != content::NONE && socket::is_of_migration(fd) {
        content = content::NONE;
    }
    let is_emitted = content != content::NONE && emit(&pieces, tgid, process, line);
    if is_emitted && (content == content::SECOND_LINE || content == content::LINE) {
        process.inside_event.set(fd.wrapping_add(1));
    } else if is_inside {
        process.inside_event.set(0);
    }
    content != content::NONE
}

/// Puts a line, whose content is set, into the ring buffer; returns whether it did. A failure is counted.
#[inline(always)]
fn emit(pieces: &Pieces, tgid: u32, process: &shared::Process, line: *mut Line) -> bool {
    let at_ns = maps::now_ns();
    let length = pieces.copy::<QMP_LINE_MAX>(line);
    if length == 0 {
        maps::count_lost(lost::UNREADABLE);
        return false;
    }
    let tokens = length as u64 / budget::LINE_TOKEN_BYTES + 1;
    let Some(lines) = budget::LINES.spend(process.lines.get(), tokens, at_ns) else {
        // Written in this order and read in the other, so that no process' count is ever above the total.
        maps::count_lost(lost::LINES);
        process.dropped_lines.add(1);
        return false;
    };
    process.lines.set(lines);
    // SAFETY: `line` is the map's value.
    let head = unsafe { &mut (*line).head };
    head.header = EventHeader { at_ns, kind: kind::QMP_LINE, tgid };
    head.summed = 0;
    (head.sums, head.vcpus) = (Sums::default(), Vcpus::default());
    if (head.content == content::WHOLE || head.content == content::SECOND_LINE)
        && let (Some(sums), Some(survey)) = (ownership::sum(tgid), vcpu::survey(tgid, at_ns))
    {
        head.summed = 1;
        (head.sums, head.vcpus) = (*sums, survey.vcpus);
    }
    head.padding = 0;
    // SAFETY: the bytes follow the head, and `length` of them were written.
    let record = unsafe {
        slice::from_raw_parts((&raw const (*line).head).cast::<u8>(), size_of::<QmpLine>() + length)
    };
    let emitted = LINES.output_untyped::<[u8]>(record, 0).is_ok();
    if emitted {
        tap::await_next_frame(tgid);
    } else {
        maps::count_lost(lost::RING_BUFFER);
    }
    emitted
}

/// Passes a value through memory, so that the verifier forgets where it came from. Else it would follow all that
/// comes after once for each way in which the value may have been computed.
///
/// # Safety
///
/// `place` must be in a map's value.
#[inline(always)]
unsafe fn forget<T>(place: *mut T, value: T) -> T {
    // SAFETY: the caller's promise.
    unsafe { place.write_volatile(value) };
    // SAFETY: as above.
    unsafe { place.read_volatile() }
}

/// `accept` returned `fd`, or an error.
#[inline(always)]
pub(crate) fn accepted(fd: i64) {
    if let (Ok(fd), Some(_)) = (u32::try_from(fd), process::traced()) {
        socket::tie(fd);
    }
}

/// The arguments at `syscalls:sys_enter_sendmsg`: the descriptor and the message.
#[inline(always)]
pub(crate) fn tracepoint_arguments(ctx: &TracePointContext) -> Option<(u32, u64)> {
    // SAFETY: the offsets are the tracepoint's fields `fd` and `msg`.
    let fd: u64 = unsafe { ctx.read_at(16) }.ok()?;
    // SAFETY: as above.
    let message: u64 = unsafe { ctx.read_at(24) }.ok()?;
    Some((fd as u32, message))
}

/// The result at `syscalls:sys_exit_*`.
#[inline(always)]
pub(crate) fn tracepoint_result(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: the offset is the tracepoint's field `ret`.
    unsafe { ctx.read_at(16) }.ok()
}

/// How a message begins.
#[inline(always)]
fn beginning(pieces: &Pieces, line: *mut Line) -> Beginning {
    // SAFETY: `line` is the map's value.
    let looked_at = unsafe { &raw mut (*line).bytes }.cast::<[u8; LOOKED_AT]>();
    // SAFETY: as above; the line has room for these.
    unsafe { looked_at.write([0; LOOKED_AT]) };
    pieces.copy::<LOOKED_AT>(line);
    // SAFETY: as above; nothing writes to it until this returns.
    Beginning::of(unsafe { &*looked_at })
}

/// The pieces of a message: `msg_iov` and `msg_iovlen` of `struct user_msghdr`.
struct Pieces {
    first: u64,
    count: u64,
}

impl Pieces {
    #[inline(always)]
    fn of(message: u64) -> Option<Self> {
        Some(Self { first: user(message + MSG_IOV)?, count: user(message + MSG_IOVLEN)? })
    }

    /// Copies the first pieces one after the other, up to `MAX` bytes; returns how many bytes, and notes in `cut`
    /// whether there are more. There is room for twice as many: the verifier bounds where a piece begins and how long
    /// it is, each by itself, but not their sum.
    #[inline(always)]
    fn copy<const MAX: usize>(&self, line: *mut Line) -> usize {
        const { assert!(MAX <= QMP_LINE_MAX) }
        // SAFETY: `line` is the map's value.
        let bytes = unsafe { &raw mut (*line).bytes }.cast::<u8>();
        let mut length = 0;
        let mut cut = 1;
        for index in 0..=PIECES {
            if index >= self.count {
                cut = 0;
                break;
            }
            if index == PIECES || length >= MAX {
                break;
            }
            let Some([from, size]) = user::<[u64; 2]>(self.first + index * IOVEC_SIZE) else { break };
            let is_short = size <= MAX as u64;
            let size = if is_short { size as usize } else { MAX };
            // SAFETY: `length` is less than `MAX`, `size` is at most `MAX`, and there is room for twice as many.
            let room = unsafe { slice::from_raw_parts_mut(bytes.add(length), size) };
            // SAFETY: the helper checks the address and fails where nothing is mapped.
            if unsafe { bpf_probe_read_user_buf(from as *const u8, room) }.is_err() {
                break;
            }
            length += size;
            if !is_short {
                break;
            }
        }
        if length > MAX {
            (length, cut) = (MAX, 1);
        }
        // SAFETY: as above.
        unsafe { (*line).head.cut = cut };
        // SAFETY: as above.
        let length = unsafe { forget(&raw mut (*line).length, length as u64) };
        if length > MAX as u64 { MAX } else { length as usize }
    }
}

#[inline(always)]
fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
