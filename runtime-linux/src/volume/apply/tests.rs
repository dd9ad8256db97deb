//! Changes have their effect once, and the same effect when they are performed again.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use havre_core::replication::record::FileTime;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::volume::place::{Excluded, open_root};

struct Fixture {
    dir: TempDir,
    applier: Applier,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempdir().expect("tempdir");
        let root = open_root(dir.path()).expect("open");
        Self { dir, applier: Applier::new(Places::new([(root, Excluded::default())])) }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Performs the change twice: the second time must change nothing.
    #[track_caller]
    fn twice(&mut self, change: &Change, payload: &[u8]) {
        self.applier.apply(change, payload).expect("performed");
        self.applier.apply(change, payload).expect("performed again");
    }
}

fn at(path: &str) -> Location {
    Location::new(0, path.as_bytes())
}

fn access(mode: u16) -> Access {
    let me = rustix::process::getuid().as_raw();
    Access { mode, uid: me, gid: rustix::process::getgid().as_raw() }
}

#[test]
fn a_file_is_created_written_and_truncated() {
    let mut it = Fixture::new();
    let id = FileId(1);
    it.twice(&Change::Create { location: at("f"), id, access: access(0o640) }, b"");
    it.twice(&Change::Write { id, offset: 2, len: 5 }, b"hello");
    it.twice(&Change::Truncate { id, size: 6 }, b"");
    assert_eq!(fs::read(it.path("f")).expect("read"), b"\0\0hell");
    assert_eq!(fs::metadata(it.path("f")).expect("stat").mode() & 0o7777, 0o640);
}

#[test]
fn a_create_over_a_directory_of_a_later_moment_replaces_it() {
    let mut it = Fixture::new();
    fs::create_dir_all(it.path("f/deep")).expect("mkdir");
    fs::write(it.path("f/deep/x"), b"x").expect("write");
    let create = Change::Create { location: at("f"), id: FileId(1), access: access(0o600) };
    it.twice(&create, b"");
    assert!(fs::metadata(it.path("f")).expect("stat").is_file());
}

#[test]
fn a_renamed_open_file_is_still_written() {
    let mut it = Fixture::new();
    let id = FileId(7);
    it.twice(&Change::Create { location: at("a"), id, access: access(0o600) }, b"");
    let rename = Change::Rename { from: at("a"), to: at("b"), mode: RenameMode::Replace };
    it.twice(&rename, b"");
    it.twice(&Change::Write { id, offset: 0, len: 1 }, b"z");
    assert_eq!(fs::read(it.path("b")).expect("read"), b"z");
    assert!(!it.path("a").exists());
}

#[test]
fn a_renamed_directory_is_not_reached_under_its_old_name() {
    let mut it = Fixture::new();
    it.twice(&Change::MakeDirectory { location: at("d"), access: access(0o755) }, b"");
    it.twice(&Change::Create { location: at("d/f"), id: FileId(1), access: access(0o600) }, b"");
    let rename = Change::Rename { from: at("d"), to: at("e"), mode: RenameMode::Replace };
    it.applier.apply(&rename, b"").expect("renamed");
    let stale = Change::Create { location: at("d/g"), id: FileId(2), access: access(0o600) };
    assert!(it.applier.apply(&stale, b"").is_err(), "in sync this is divergence");
    it.applier.set_lenient(true);
    it.applier.apply(&stale, b"").expect("skipped during resynchronisation");
    assert!(!it.path("d").exists());
}

#[test]
fn a_name_is_taken_over_by_a_link() {
    let mut it = Fixture::new();
    fs::write(it.path("a"), b"a").expect("write");
    fs::write(it.path("b"), b"b").expect("write");
    it.twice(&Change::Link { from: at("a"), to: at("b") }, b"");
    assert_eq!(
        fs::metadata(it.path("a")).expect("stat").ino(),
        fs::metadata(it.path("b")).expect("stat").ino()
    );
}

#[test]
fn a_temporary_file_gets_its_name_later() {
    let mut it = Fixture::new();
    let id = FileId(3);
    let temporary = Change::Temporary { directory: at(""), id, access: access(0o600) };
    it.applier.apply(&temporary, b"").expect("made");
    it.twice(&Change::Write { id, offset: 0, len: 2 }, b"ok");
    it.applier.apply(&Change::LinkOpen { id, location: at("named") }, b"").expect("linked");
    assert_eq!(fs::read(it.path("named")).expect("read"), b"ok");
}

#[test]
fn nodes_links_and_directories_are_made_and_removed() {
    let mut it = Fixture::new();
    it.twice(
        &Change::MakeNode { location: at("p"), kind: NodeKind::Fifo, access: access(0o622) },
        b"",
    );
    let fifo = fs::metadata(it.path("p")).expect("stat");
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o622);
    let me = access(0);
    let link = |target: &[u8]| Change::Symlink {
        location: at("s"),
        target: target.to_vec(),
        uid: me.uid,
        gid: me.gid,
    };
    it.twice(&link(b"x"), b"");
    it.twice(&link(b"y"), b"");
    assert_eq!(fs::read_link(it.path("s")).expect("readlink"), Path::new("y"));
    it.twice(&Change::MakeDirectory { location: at("d"), access: access(0o1777) }, b"");
    assert_eq!(fs::metadata(it.path("d")).expect("stat").permissions().mode() & 0o7777, 0o1777);
    it.twice(&Change::Unlink { location: at("s") }, b"");
    it.twice(&Change::Unlink { location: at("p") }, b"");
    it.twice(&Change::RemoveDirectory { location: at("d") }, b"");
    assert_eq!(fs::read_dir(it.dir.path()).expect("readdir").count(), 0);
}

#[test]
fn attributes_are_set_by_path_and_by_open_file() {
    let mut it = Fixture::new();
    let id = FileId(1);
    it.twice(&Change::Create { location: at("f"), id, access: access(0o600) }, b"");
    let time = FileTime { seconds: -5, nanoseconds: 123_456_789 };
    for target in [Target::Path(at("f")), Target::Id(id)] {
        it.twice(&Change::SetMode { target: target.clone(), mode: 0o4711 }, b"");
        it.twice(
            &Change::SetXattr {
                target: target.clone(),
                name: b"user.k".to_vec(),
                value: b"v".to_vec(),
            },
            b"",
        );
        let times =
            Change::SetTimes { target: target.clone(), accessed: None, modified: Some(time) };
        it.twice(&times, b"");
        let stat = fs::metadata(it.path("f")).expect("stat");
        assert_eq!(stat.mode() & 0o7777, 0o4711);
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (-5, 123_456_789));
        let mut value = [0u8; 8];
        let len = rustix::fs::lgetxattr(it.path("f"), "user.k", &mut value[..]).expect("xattr");
        assert_eq!(&value[..len], b"v");
        it.twice(&Change::RemoveXattr { target: target.clone(), name: b"user.k".to_vec() }, b"");
        it.twice(&Change::SetMode { target, mode: 0o600 }, b"");
    }
}

#[test]
fn a_change_never_leaves_the_directory_through_a_symbolic_link() {
    let mut it = Fixture::new();
    let outside = tempdir().expect("tempdir");
    fs::write(outside.path().join("f"), b"safe").expect("write");
    symlink(outside.path(), it.path("out")).expect("symlink");
    let id = FileId(1);
    it.applier.apply(&Change::Open { id, location: at("out/f") }, b"").expect("ignored");
    it.applier.apply(&Change::Truncate { id, size: 0 }, b"").expect("ignored");
    assert!(it.applier.apply(&Change::Unlink { location: at("out/f") }, b"").is_err());
    let mode = Change::SetMode { target: Target::Path(at("out")), mode: 0o700 };
    it.applier.apply(&mode, b"").expect("void on a symbolic link");
    assert_eq!(fs::read(outside.path().join("f")).expect("read"), b"safe");
}

#[test]
fn what_is_not_replicated_is_neither_made_nor_removed() {
    let mut it = Fixture::new();
    fs::create_dir_all(it.path("lost+found/keep")).expect("mkdir");
    it.twice(&Change::RemoveDirectory { location: at("lost+found") }, b"");
    it.twice(
        &Change::Create { location: at(".havre/x"), id: FileId(1), access: access(0o600) },
        b"",
    );
    assert!(it.path("lost+found/keep").exists());
    assert!(!it.path(".havre").exists());
}

#[test]
fn allocation_and_holes_keep_their_meaning() {
    let mut it = Fixture::new();
    let id = FileId(1);
    it.twice(&Change::Create { location: at("f"), id, access: access(0o600) }, b"");
    it.twice(&Change::Write { id, offset: 0, len: 8192 }, &[7; 8192]);
    let allocate = |mode, offset, len| Change::Allocate { id, mode, offset, len };
    it.twice(&allocate(AllocateMode::PunchHole, 0, 4096), b"");
    it.twice(&allocate(AllocateMode::Reserve, 8192, 4096), b"");
    let content = fs::read(it.path("f")).expect("read");
    assert_eq!(content.len(), 12_288);
    assert!(content[..4096].iter().all(|b| *b == 0));
    assert!(content[4096..8192].iter().all(|b| *b == 7));
}
