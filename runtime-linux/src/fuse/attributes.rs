//! How a file's attributes look in replies.

use havre_core::replication::record::FileTime;
use rustix::fs::Statx;

use super::abi::Encoder;

/// How long the kernel may keep names and attributes: for ever, since only Havre changes them.
const KEEP_SECONDS: u64 = 10 * 365 * 86_400;

/// A device number as the kernel writes it in 32 bits.
const fn device_number(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn put_attributes(out: &mut Vec<u8>, about: &Statx, modified: Option<FileTime>) {
    let changed = (about.stx_mtime.tv_sec as u64, about.stx_mtime.tv_nsec);
    let modified = modified.map_or(changed, |time| (time.seconds as u64, time.nanoseconds));
    out.put64(about.stx_ino);
    out.put64(about.stx_size);
    out.put64(about.stx_blocks);
    out.put64(about.stx_atime.tv_sec as u64);
    out.put64(modified.0);
    out.put64(about.stx_ctime.tv_sec as u64);
    out.put32(about.stx_atime.tv_nsec);
    out.put32(modified.1);
    out.put32(about.stx_ctime.tv_nsec);
    out.put32(u32::from(about.stx_mode));
    out.put32(about.stx_nlink);
    out.put32(about.stx_uid);
    out.put32(about.stx_gid);
    out.put32(device_number(about.stx_rdev_major, about.stx_rdev_minor));
    out.put32(about.stx_blksize);
    out.put32(0);
}

/// Appends the answer to a lookup.
pub(super) fn put_entry(out: &mut Vec<u8>, node: u64, about: &Statx, modified: Option<FileTime>) {
    out.put64(node);
    out.put64(0);
    out.put64(KEEP_SECONDS);
    out.put64(KEEP_SECONDS);
    out.put64(0);
    put_attributes(out, about, modified);
}

/// Appends the answer to a lookup that found nothing: the kernel remembers that too.
pub(super) fn put_absent(out: &mut Vec<u8>) {
    let start = out.len();
    out.put64(0);
    out.put64(0);
    out.put64(KEEP_SECONDS);
    out.resize(start + ENTRY_BYTES, 0);
}

/// Length of what [`put_entry`] appends.
pub(super) const ENTRY_BYTES: usize = 128;

/// Appends the answer to a question about attributes.
pub(super) fn put_answer(out: &mut Vec<u8>, about: &Statx, modified: Option<FileTime>) {
    out.put64(KEEP_SECONDS);
    out.put64(0);
    put_attributes(out, about, modified);
}

/// Appends the answer to STATX.
pub(super) fn put_statx(out: &mut Vec<u8>, about: &Statx, modified: Option<FileTime>) {
    out.put64(KEEP_SECONDS);
    out.resize(out.len() + 24, 0);
    out.put32(about.stx_mask);
    out.put32(about.stx_blksize);
    out.put64(about.stx_attributes.bits());
    out.put32(about.stx_nlink);
    out.put32(about.stx_uid);
    out.put32(about.stx_gid);
    out.put16(about.stx_mode);
    out.put16(0);
    out.put64(about.stx_ino);
    out.put64(about.stx_size);
    out.put64(about.stx_blocks);
    out.put64(about.stx_attributes_mask.bits());
    let mtime = (about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec);
    let mtime = modified.map_or(mtime, |time| (time.seconds, time.nanoseconds));
    let times = [
        (about.stx_atime.tv_sec, about.stx_atime.tv_nsec),
        (about.stx_btime.tv_sec, about.stx_btime.tv_nsec),
        (about.stx_ctime.tv_sec, about.stx_ctime.tv_nsec),
        mtime,
    ];
    for (seconds, nanoseconds) in times {
        out.put64(seconds as u64);
        out.put32(nanoseconds);
        out.put32(0);
    }
    out.put32(about.stx_rdev_major);
    out.put32(about.stx_rdev_minor);
    out.put32(about.stx_dev_major);
    out.put32(about.stx_dev_minor);
    out.resize(out.len() + 14 * 8, 0);
}
