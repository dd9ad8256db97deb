//! Every operation that applications can do to files, on the mount and on a plain directory:
//! the same results, the same errors, the same tree.

mod fs_support;

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use fs_support::{Served, assert_same_trees, is_root, pair, temporary};
use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags,
        SeekFrom, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};

/// What a case saw, step by step.
type Seen = Vec<String>;
type Case = (&'static str, fn(&Path, &mut Seen));

#[test]
#[ignore = "not a test: started by the others"]
fn helper_process() {
    fs_support::help();
}

const NEW: OFlags = OFlags::CREATE.union(OFlags::RDWR).union(OFlags::EXCL);

fn new(path: &Path, mode: u32) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, NEW, Mode::from_raw_mode(mode))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags, Mode::empty())
}

/// Notes a result, of which only success or the error counts.
fn note<T>(seen: &mut Seen, what: &str, result: Result<T, Errno>) -> Option<T> {
    match result {
        Ok(value) => {
            seen.push(format!("{what}: ok"));
            Some(value)
        }
        Err(error) => {
            seen.push(format!("{what}: {error:?}"));
            None
        }
    }
}

fn stat(seen: &mut Seen, what: &str, fd: impl AsFd) {
    let about = rustix::fs::fstat(fd).expect("an open file has attributes");
    seen.push(format!(
        "{what}: mode {:o} owner {}:{} links {} size {}",
        about.st_mode, about.st_uid, about.st_gid, about.st_nlink, about.st_size
    ));
}

fn content(seen: &mut Seen, what: &str, fd: impl AsFd) {
    let mut data = vec![0; 1 << 16];
    let len = rustix::io::pread(fd, &mut data[..], 0).expect("an open file can be read");
    seen.push(format!("{what}: {len} bytes {}", blake3::hash(&data[..len]).to_hex()));
}

/// Runs `act` as an ordinary user.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let user = scope.spawn(move || {
            // SAFETY: setfsuid and setfsgid change the calling thread only and take no pointers;
            // the thread ends with this closure.
            unsafe {
                libc::setfsgid(uid);
                libc::setfsuid(uid);
            }
            act()
        });
        user.join().expect("a case does not panic")
    })
}

fn write_and_append(top: &Path, seen: &mut Seen) {
    let file = new(&top.join("f"), 0o644).expect("create");
    note(seen, "write", rustix::io::write(&file, b"hello world"));
    note(seen, "write beyond the end", rustix::io::pwrite(&file, b"far", 100_000));
    content(seen, "content", &file);
    let append = open(&top.join("f"), OFlags::WRONLY | OFlags::APPEND).expect("open");
    note(seen, "append", rustix::io::write(&append, b"tail"));
    stat(seen, "after append", &file);
    note(seen, "fsync", rustix::fs::fsync(&file));
    note(seen, "fdatasync", rustix::fs::fdatasync(&file));
    let sync = open(&top.join("f"), OFlags::WRONLY | OFlags::DSYNC).expect("open");
    note(seen, "synchronous write", rustix::io::pwrite(&sync, b"SYNC", 3));
    content(seen, "content", &file);
    let read_only = open(&top.join("f"), OFlags::RDONLY).expect("open");
    note(seen, "write to a read-only descriptor", rustix::io::write(&read_only, b"no"));
    let truncated = note(seen, "O_TRUNC", open(&top.join("f"), OFlags::RDWR | OFlags::TRUNC));
    stat(seen, "after O_TRUNC", truncated.expect("open"));
}

fn direct(top: &Path, seen: &mut Seen) {
    let flags = NEW | OFlags::DIRECT;
    let file = rustix::fs::open(top.join("f"), flags, Mode::from_raw_mode(0o600)).expect("create");
    let mut memory = vec![7u8; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + 4096];
    note(seen, "direct write", rustix::io::pwrite(&file, block, 8192));
    block.fill(1);
    let read = note(seen, "direct read", rustix::io::pread(&file, &mut *block, 8192));
    seen.push(format!("{read:?} {}", block.iter().all(|byte| *byte == 7)));
    stat(seen, "after direct write", &file);
}

fn sizes(top: &Path, seen: &mut Seen) {
    let file = new(&top.join("f"), 0o644).expect("create");
    rustix::io::write(&file, &[5; 10_000]).expect("write");
    note(seen, "shrink", rustix::fs::ftruncate(&file, 3000));
    note(seen, "grow", rustix::fs::ftruncate(&file, 9000));
    content(seen, "content", &file);
    note(seen, "huge", rustix::fs::ftruncate(&file, u64::MAX / 2 - 5));
    let calls = [
        ("reserve", FallocateFlags::empty(), 0, 20_000),
        ("keep size", FallocateFlags::KEEP_SIZE, 30_000, 9000),
        ("punch", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1000, 1500),
        ("zero", FallocateFlags::ZERO_RANGE, 19_000, 3000),
        ("zero keep size", FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 0, 50),
        ("empty", FallocateFlags::empty(), 0, 0),
        ("punch without keep", FallocateFlags::PUNCH_HOLE, 0, 10),
    ];
    for (name, flags, offset, len) in calls {
        note(seen, name, rustix::fs::fallocate(&file, flags, offset, len));
        stat(seen, name, &file);
        content(seen, name, &file);
    }
}

fn holes(top: &Path, seen: &mut Seen) {
    let file = new(&top.join("f"), 0o644).expect("create");
    rustix::io::pwrite(&file, &[5; 100], 0).expect("write");
    rustix::fs::fsync(&file).expect("fsync");
    // Where holes are is the file system's choice; data must be called data.
    note(seen, "data", rustix::fs::seek(&file, SeekFrom::Data(0)));
    let hole = rustix::fs::seek(&file, SeekFrom::Hole(0)).expect("every file ends in a hole");
    seen.push(format!("{}", hole >= 100));
    note(seen, "beyond the end", rustix::fs::seek(&file, SeekFrom::Data(100_000)));
    // Data that has not reached the file beneath must not look like a hole.
    rustix::io::pwrite(&file, &[6; 100], 1 << 20).expect("write");
    let data = rustix::fs::seek(&file, SeekFrom::Data(1 << 20)).expect("data was written there");
    seen.push(format!("{data}"));
    fs::copy(top.join("f"), top.join("g")).expect("copy");
}

fn shared_memory(top: &Path, seen: &mut Seen) {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
    let file = new(&top.join("f"), 0o644).expect("create");
    rustix::fs::ftruncate(&file, 8192).expect("truncate");
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of 8192 bytes of a file of that size, used below only, and unmapped
    // before the file shrinks.
    unsafe {
        let at =
            rustix::mm::mmap(std::ptr::null_mut(), 8192, protection, MapFlags::SHARED, &file, 0)
                .expect("a file can be mapped");
        at.cast::<u8>().add(5000).write(42);
        note(seen, "msync", rustix::mm::msync(at, 8192, MsyncFlags::SYNC));
        rustix::io::pwrite(&file, b"through write", 10).expect("write");
        seen.push(format!("{}", at.cast::<u8>().add(10).read()));
        rustix::mm::munmap(at, 8192).expect("it is mapped");
    }
    content(seen, "content", &file);
}

fn names(top: &Path, seen: &mut Seen) {
    let at = |name: &str| top.join(name);
    note(seen, "mkdir", rustix::fs::mkdir(at("d"), Mode::from_raw_mode(0o1777)));
    note(seen, "mkdir again", rustix::fs::mkdir(at("d"), Mode::from_raw_mode(0o755)));
    note(seen, "create", new(&at("d/f"), 0o640));
    note(seen, "create again", new(&at("d/f"), 0o640));
    note(seen, "create in nothing", new(&at("no/f"), 0o640));
    note(seen, "too long", new(&at(&"n".repeat(256)), 0o640));
    note(seen, "longest", new(&at(&"n".repeat(255)), 0o640));
    note(seen, "odd bytes", new(&at("a \\\n\u{e9}\u{1f600}"), 0o640));
    note(seen, "link", rustix::fs::link(at("d/f"), at("g")));
    note(seen, "link to a directory", rustix::fs::link(at("d"), at("h")));
    note(seen, "link onto a name", rustix::fs::link(at("d/f"), at("g")));
    note(seen, "symlink", rustix::fs::symlink("d/f", at("s")));
    note(seen, "dangling", rustix::fs::symlink("nothing", at("t")));
    note(seen, "open dangling", open(&at("t"), OFlags::RDONLY));
    note(seen, "open nofollow", open(&at("s"), OFlags::RDONLY | OFlags::NOFOLLOW));
    note(seen, "rmdir of a full one", rustix::fs::rmdir(at("d")));
    note(seen, "rmdir of a file", rustix::fs::rmdir(at("g")));
    note(seen, "unlink of a directory", rustix::fs::unlink(at("d")));
    note(seen, "unlink", rustix::fs::unlink(at("d/f")));
    note(seen, "unlink again", rustix::fs::unlink(at("d/f")));
    note(seen, "rmdir", rustix::fs::rmdir(at("d")));
    note(seen, "open as directory", open(&at("g"), OFlags::RDONLY | OFlags::DIRECTORY));
    note(seen, "fsync of a directory", rustix::fs::fsync(open(top, OFlags::RDONLY).expect("open")));
}

fn renames(top: &Path, seen: &mut Seen) {
    let at = |name: &str| top.join(name);
    for name in ["a", "b", "c"] {
        fs::create_dir(at(name)).expect("mkdir");
        fs::write(at(name).join("f"), name).expect("write");
    }
    let kept = open(&at("b/f"), OFlags::RDWR).expect("open");
    note(seen, "replace", rustix::fs::rename(at("a/f"), at("b/f")));
    stat(seen, "the replaced file", &kept);
    note(seen, "write to the replaced", rustix::io::write(&kept, b"still here"));
    note(seen, "move a directory", rustix::fs::rename(at("b"), at("a/b")));
    note(seen, "into itself", rustix::fs::rename(at("a"), at("a/b/a")));
    note(seen, "onto a full directory", rustix::fs::rename(at("c"), at("a/b")));
    note(seen, "file onto directory", rustix::fs::rename(at("c/f"), at("a")));
    note(seen, "what is not there", rustix::fs::rename(at("no"), at("yes")));
    let with =
        |from: &str, to: &str, flags| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags);
    note(seen, "noreplace taken", with("c/f", "a/b/f", RenameFlags::NOREPLACE));
    note(seen, "noreplace free", with("c/f", "c/g", RenameFlags::NOREPLACE));
    note(seen, "exchange", with("c/g", "a/b", RenameFlags::EXCHANGE));
    note(seen, "exchange with nothing", with("c/g", "no", RenameFlags::EXCHANGE));
    fs::write(at("c/g/f"), "after the exchange").expect("write below a moved directory");
    rustix::fs::link(at("a/b"), at("l")).expect("link");
    note(seen, "onto itself", rustix::fs::rename(at("a/b"), at("l")));
}

fn without_a_name(top: &Path, seen: &mut Seen) {
    let file = new(&top.join("f"), 0o644).expect("create");
    rustix::io::write(&file, b"unlinked").expect("write");
    rustix::fs::unlink(top.join("f")).expect("unlink");
    note(seen, "write", rustix::io::write(&file, b" and open"));
    note(seen, "grow", rustix::fs::ftruncate(&file, 50));
    note(seen, "chmod", rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)));
    note(seen, "fsync", rustix::fs::fsync(&file));
    stat(seen, "unlinked", &file);
    content(seen, "unlinked", &file);
    let reborn = new(&top.join("f"), 0o644).expect("create");
    stat(seen, "the name again", &reborn);
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let temporary = rustix::fs::open(top, flags, Mode::from_raw_mode(0o640)).expect("O_TMPFILE");
    note(seen, "write", rustix::io::write(&temporary, b"born without a name"));
    stat(seen, "temporary", &temporary);
    let linked = rustix::fs::linkat(&temporary, "", CWD, top.join("named"), AtFlags::EMPTY_PATH);
    note(seen, "linkat", linked);
    stat(seen, "named", &temporary);
    note(seen, "write on", rustix::io::write(&temporary, b", then named"));
    let removed = top.join("removed");
    fs::create_dir(&removed).expect("mkdir");
    let directory = open(&removed, OFlags::RDONLY).expect("open");
    fs::remove_dir(&removed).expect("rmdir");
    let inside = rustix::fs::openat(&directory, "f", NEW, Mode::from_raw_mode(0o644));
    note(seen, "create in a removed directory", inside);
}

fn attributes(top: &Path, seen: &mut Seen) {
    let path = top.join("f");
    let file = new(&path, 0o644).expect("create");
    note(seen, "chmod", rustix::fs::chmod(&path, Mode::from_raw_mode(0o4711)));
    stat(seen, "set-user-id", &file);
    let (uid, gid) = (Some(Uid::from_raw(1234)), Some(Gid::from_raw(4321)));
    note(seen, "chown", rustix::fs::chownat(CWD, &path, uid, gid, AtFlags::empty()));
    stat(seen, "chown clears set-user-id", &file);
    note(seen, "chown nothing", rustix::fs::chownat(CWD, &path, None, None, AtFlags::empty()));
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time(-5, 7), last_modification: time(1 << 31, 999) };
    note(seen, "utimens", rustix::fs::futimens(&file, &times));
    let about = rustix::fs::fstat(&file).expect("fstat");
    seen.push(format!("{} {} {}", about.st_atime, about.st_mtime, about.st_mtime_nsec));
    let omit = Timestamps {
        last_access: time(0, rustix::fs::UTIME_OMIT),
        last_modification: time(77, 88),
    };
    note(seen, "utimens of one", rustix::fs::futimens(&file, &omit));
    let about = rustix::fs::fstat(&file).expect("fstat");
    seen.push(format!("{} {} {}", about.st_atime, about.st_mtime, about.st_mtime_nsec));
    rustix::fs::symlink("f", top.join("s")).expect("symlink");
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    note(seen, "lchown", rustix::fs::chownat(CWD, top.join("s"), uid, gid, no_follow));
    note(seen, "lutimes", rustix::fs::utimensat(CWD, top.join("s"), &times, no_follow));
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let about = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, mask).expect("statx");
    seen.push(format!("{:o} born {}", about.stx_mode, about.stx_btime.tv_sec > 0));
}

fn extended_attributes(top: &Path, seen: &mut Seen) {
    let path = top.join("f");
    new(&path, 0o644).expect("create");
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    note(seen, "replace nothing", set("user.a", b"1", XattrFlags::REPLACE));
    note(seen, "create", set("user.a", b"1", XattrFlags::CREATE));
    note(seen, "create again", set("user.a", b"1", XattrFlags::CREATE));
    note(seen, "replace", set("user.a", b"22", XattrFlags::REPLACE));
    note(seen, "trusted", set("trusted.t", b"\0\xff", XattrFlags::empty()));
    note(seen, "empty", set("user.empty", b"", XattrFlags::empty()));
    note(seen, "unknown", set("nonsense.a", b"", XattrFlags::empty()));
    note(seen, "big", set("user.big", &[b'x'; 2000], XattrFlags::empty()));
    let mut small = [0u8; 1];
    note(seen, "too small", rustix::fs::getxattr(&path, "user.a", &mut small[..]));
    note(seen, "absent", rustix::fs::getxattr(&path, "user.no", &mut small[..]));
    seen.push(format!("{:?}", rustix::fs::getxattr_query(&path, "user.a")));
    seen.push(format!("{:?}", rustix::fs::listxattr_query(&path)));
    note(seen, "remove", rustix::fs::removexattr(&path, "user.empty"));
    note(seen, "remove again", rustix::fs::removexattr(&path, "user.empty"));
    rustix::fs::symlink("f", top.join("s")).expect("symlink");
    let link = rustix::fs::lsetxattr(top.join("s"), "user.a", b"1", XattrFlags::empty());
    note(seen, "user attribute of a link", link);
    let link = rustix::fs::lsetxattr(top.join("s"), "trusted.a", b"1", XattrFlags::empty());
    note(seen, "trusted attribute of a link", link);
}

/// A list of entries (tag, permissions, id) in the kernel's format.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

fn access_control_lists(top: &Path, seen: &mut Seen) {
    const NONE: u32 = u32::MAX;
    let list = acl(&[(1, 7, NONE), (2, 6, 1000), (4, 5, NONE), (16, 6, NONE), (32, 4, NONE)]);
    let path = top.join("f");
    let file = new(&path, 0o600).expect("create");
    let access = "system.posix_acl_access";
    note(seen, "set", rustix::fs::setxattr(&path, access, &list, XattrFlags::empty()));
    stat(seen, "the mode follows", &file);
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o640)).expect("chmod");
    let user = as_user(1000, || open(&path, OFlags::RDWR).map(drop));
    note(seen, "the mask forbids", user);
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o660)).expect("chmod");
    let user = as_user(1000, || open(&path, OFlags::RDWR).map(drop));
    note(seen, "the list allows", user);
    let directory = top.join("d");
    fs::create_dir(&directory).expect("mkdir");
    let default = "system.posix_acl_default";
    note(seen, "default", rustix::fs::setxattr(&directory, default, &list, XattrFlags::empty()));
    let old = rustix::process::umask(Mode::from_raw_mode(0o077));
    fs::write(directory.join("inherits"), "").expect("write");
    fs::create_dir(directory.join("below")).expect("mkdir");
    fs::write(directory.join("below/inherits"), "").expect("write");
    rustix::process::umask(old);
    note(seen, "remove", rustix::fs::removexattr(&directory, default));
    fs::write(directory.join("plain"), "").expect("write");
}

fn other_users(top: &Path, seen: &mut Seen) {
    rustix::fs::chmod(top, Mode::from_raw_mode(0o777)).expect("chmod");
    let path = top.join("mine");
    let made = as_user(1000, || new(&path, 0o666).map(drop));
    note(seen, "create", made);
    note(seen, "another's file", as_user(1001, || open(&path, OFlags::RDWR).map(drop)));
    let change = as_user(1001, || rustix::fs::chmod(&path, Mode::from_raw_mode(0o777)));
    note(seen, "chmod of another's file", change);
    let owner = Some(Uid::from_raw(1001));
    let give = || rustix::fs::chownat(CWD, &path, owner, None, AtFlags::empty());
    note(seen, "chown by the owner", as_user(1000, give));
    let closed = top.join("closed");
    note(seen, "no right to itself", as_user(1000, || new(&closed, 0).map(drop)));
    note(seen, "mkdir", as_user(1000, || fs::create_dir(top.join("dir")).map_err(|_| Errno::IO)));
    rustix::fs::chmod(top, Mode::from_raw_mode(0o1777)).expect("chmod");
    note(seen, "sticky unlink", as_user(1001, || rustix::fs::unlink(&path)));
    let rename = || rustix::fs::rename(&path, top.join("stolen"));
    note(seen, "sticky rename", as_user(1001, rename));
    let group = top.join("group");
    fs::create_dir(&group).expect("mkdir");
    let gid = Some(Gid::from_raw(555));
    rustix::fs::chownat(CWD, &group, None, gid, AtFlags::empty()).expect("chown");
    rustix::fs::chmod(&group, Mode::from_raw_mode(0o2777)).expect("chmod");
    note(seen, "group file", as_user(1000, || new(&group.join("f"), 0o664).map(drop)));
    let below = || rustix::fs::mkdir(group.join("d"), Mode::from_raw_mode(0o755));
    note(seen, "group directory", as_user(1000, below));
    note(seen, "set-group-id", as_user(1000, || new(&group.join("s"), 0o2775).map(drop)));
}

fn set_id_bits(top: &Path, seen: &mut Seen) {
    let path = top.join("f");
    let file = new(&path, 0o777).expect("create");
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o777)).expect("chmod");
    let arm = || {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o6777)).expect("chmod");
    };
    arm();
    rustix::io::pwrite(&file, b"root may", 0).expect("write");
    stat(seen, "write by root", &file);
    arm();
    as_user(1000, || {
        let file = open(&path, OFlags::RDWR).expect("open");
        rustix::io::pwrite(&file, b"user", 0).expect("write");
    });
    stat(seen, "write by a user", &file);
    arm();
    as_user(1000, || {
        let file = open(&path, OFlags::RDWR).expect("open");
        rustix::fs::ftruncate(&file, 2).expect("truncate");
    });
    stat(seen, "truncate by a user", &file);
    arm();
    as_user(1000, || {
        let file = open(&path, OFlags::RDWR).expect("open");
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 9000).expect("fallocate");
    });
    stat(seen, "fallocate by a user", &file);
}

fn special_files(top: &Path, seen: &mut Seen) {
    let mode = Mode::from_raw_mode(0o640);
    let make =
        |name: &str, kind, device| rustix::fs::mknodat(CWD, top.join(name), kind, mode, device);
    note(seen, "fifo", make("fifo", FileType::Fifo, 0));
    note(seen, "socket", make("socket", FileType::Socket, 0));
    let null = rustix::fs::makedev(1, 3);
    note(seen, "character device", make("null", FileType::CharacterDevice, null));
    let odd = rustix::fs::makedev(259, 70_000);
    note(seen, "block device", make("block", FileType::BlockDevice, odd));
    note(seen, "file", make("file", FileType::RegularFile, 0));
    note(seen, "taken", make("file", FileType::Fifo, 0));
    let user = as_user(1000, || make("theirs", FileType::CharacterDevice, null));
    note(seen, "device by a user", user);
    fs::write(top.join("null"), "into nothing").expect("the null device takes it");
    note(seen, "chmod", rustix::fs::chmod(top.join("fifo"), Mode::from_raw_mode(0o600)));
    let uid = Some(Uid::from_raw(9));
    note(seen, "chown", rustix::fs::chownat(CWD, top.join("fifo"), uid, None, AtFlags::empty()));
    let moved = rustix::fs::rename(top.join("fifo"), top.join("pipe"));
    note(seen, "rename", moved);
}

fn locks(top: &Path, seen: &mut Seen) {
    let path = top.join("f");
    let (one, two) = (new(&path, 0o644).expect("create"), open(&path, OFlags::RDWR).expect("open"));
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    note(seen, "flock", rustix::fs::flock(&one, exclusive));
    note(seen, "flock of another", rustix::fs::flock(&two, exclusive));
    rustix::fs::flock(&one, FlockOperation::Unlock).expect("unlock");
    note(seen, "flock after unlock", rustix::fs::flock(&two, exclusive));
    note(seen, "POSIX lock", rustix::fs::fcntl_lock(&one, exclusive));
    note(seen, "POSIX unlock", rustix::fs::fcntl_lock(&one, FlockOperation::Unlock));
}

fn copies(top: &Path, seen: &mut Seen) {
    let from = new(&top.join("from"), 0o644).expect("create");
    let to = new(&top.join("to"), 0o644).expect("create");
    rustix::io::write(&from, &(0..200u8).cycle().take(20_000).collect::<Vec<_>>()).expect("write");
    let (mut start, mut end) = (100, 3);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &to, Some(&mut end), 15_000);
    seen.push(format!("{copied:?}"));
    content(seen, "copied", &to);
    let (mut start, mut end) = (19_000, 0);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &to, Some(&mut end), 15_000);
    seen.push(format!("{copied:?}"));
    content(seen, "copied to the end", &to);
}

fn directories(top: &Path, seen: &mut Seen) {
    for index in 0..700 {
        fs::write(top.join(format!("file-{index:04}-{}", "x".repeat(index % 90))), "")
            .expect("write");
    }
    let mut names: Vec<_> = fs::read_dir(top)
        .expect("read")
        .map(|entry| {
            let entry = entry.expect("entry");
            (entry.file_name(), entry.file_type().expect("type").is_file())
        })
        .collect();
    names.sort();
    seen.push(format!("{names:?}"));
    for (name, _) in names.iter().step_by(2) {
        fs::remove_file(top.join(name)).expect("remove");
    }
    seen.push(format!("{}", fs::read_dir(top).expect("read").count()));
    fs::write(top.join("new"), "").expect("write");
    seen.push(format!("{}", fs::read_dir(top).expect("read").count()));
    let mut deep = top.to_owned();
    for _ in 0..60 {
        deep.push("a-directory-name-of-some-length");
    }
    fs::create_dir_all(&deep).expect("deep directories");
    fs::write(deep.join("bottom"), "deep").expect("write");
    seen.push(fs::read_to_string(deep.join("bottom")).expect("read"));
    let about = rustix::fs::statvfs(top).expect("statvfs");
    seen.push(format!("{} {}", about.f_namemax, about.f_frsize));
}

const CASES: [Case; 17] = [
    ("write_and_append", write_and_append),
    ("direct", direct),
    ("sizes", sizes),
    ("holes", holes),
    ("shared_memory", shared_memory),
    ("names", names),
    ("renames", renames),
    ("without_a_name", without_a_name),
    ("attributes", attributes),
    ("extended_attributes", extended_attributes),
    ("access_control_lists", access_control_lists),
    ("other_users", other_users),
    ("set_id_bits", set_id_bits),
    ("special_files", special_files),
    ("locks", locks),
    ("copies", copies),
    ("directories", directories),
];

/// One comparison at a time: a case changes the process's mask.
static ALONE: Mutex<()> = Mutex::new(());

#[track_caller]
fn compare(mode: &str) {
    if !is_root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let top = temporary();
    let (mounted, plain) = pair(top.path()).expect("fresh directories");
    let replica = top.path().join("replica");
    fs::create_dir(&replica).expect("a fresh directory");
    for user in [top.path(), &mounted, &plain, &replica] {
        rustix::fs::chmod(user, Mode::from_raw_mode(0o755)).expect("chmod");
    }
    let served = Served::start(&mounted, mode);
    for (name, case) in CASES {
        let run = |side: &Path| {
            let mut seen = Seen::new();
            fs::create_dir(side.join(name)).expect("a fresh directory");
            case(&side.join(name), &mut seen);
            seen
        };
        let (left, right) = (run(&mounted), run(&plain));
        assert_eq!(left, right, "{name}: mounted on the left, plain on the right");
        assert_same_trees(&mounted.join(name), &plain.join(name));
    }
    drop(served);
    // What the application saw is what lies beneath.
    assert_same_trees(&mounted, &plain);
    if mode.starts_with("mirror") {
        assert_same_trees(&replica, &plain);
    }
}

#[test]
fn every_operation_behaves_as_beneath_with_write_back() {
    compare("back");
}

#[test]
fn every_operation_behaves_as_beneath_with_write_through() {
    compare("through");
}

#[test]
fn every_operation_behaves_as_beneath_with_copies_in_one_change() {
    compare("copy");
}

#[test]
fn the_changes_of_every_operation_make_an_equal_replica_with_write_back() {
    compare("mirror-back");
}

#[test]
fn the_changes_of_every_operation_make_an_equal_replica_with_write_through() {
    compare("mirror-through");
}
