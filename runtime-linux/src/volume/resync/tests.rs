//! Two directories become equal, and only what differs is sent.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use havre_core::{
    ids::NodeId,
    replication::{
        generation::{Generation, Origin},
        item::{Answer, Item, Step},
        record::Location,
    },
};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::volume::{
    place::{Excluded, Places, open_root},
    testkit::{Tree, assert_equal},
};

/// Carries steps to a fixer at once, through their encoding.
struct Direct {
    places: Places,
    fixer: Fixer,
    written: u64,
    asked: u32,
}

impl Direct {
    fn carry(&mut self, step: &Step, payload: &[u8]) -> Result<Option<Answer>, Stop> {
        let step = Step::decode(&step.encode()).expect("steps are well formed");
        if matches!(step, Step::Write { .. }) {
            self.written += payload.len() as u64;
        }
        let answer = self.fixer.step(&mut self.places, &step, payload).map_err(Stop::Local)?;
        Ok(answer.map(|answer| Answer::decode(&answer.encode()).expect("well formed")))
    }
}

impl Link for Direct {
    fn send(&mut self, step: &Step, payload: &[u8]) -> Result<(), Stop> {
        let answer = self.carry(step, payload)?;
        assert_eq!(answer, None, "{step:?}");
        Ok(())
    }

    fn ask(&mut self, step: &Step) -> Result<Answer, Stop> {
        self.asked += 1;
        Ok(self.carry(step, &[])?.expect("a step that asks is answered"))
    }
}

struct Pair {
    from: TempDir,
    to: TempDir,
    copier: Copier,
    link: Direct,
}

fn places(dir: &Path) -> Places {
    Places::new([(open_root(dir).expect("open"), Excluded::default())])
}

impl Pair {
    fn new() -> Self {
        let (from, to) = (tempdir().expect("tempdir"), tempdir().expect("tempdir"));
        let copier = Copier::new(places(from.path()));
        let link =
            Direct { places: places(to.path()), fixer: Fixer::default(), written: 0, asked: 0 };
        Self { from, to, copier, link }
    }

    fn source(&self, path: &str) -> PathBuf {
        self.from.path().join(path)
    }

    fn target(&self, path: &str) -> PathBuf {
        self.to.path().join(path)
    }

    #[track_caller]
    fn copy(&mut self, item: &Item) -> Tally {
        self.copier.copy(item, &mut self.link).expect("copied")
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_equal(&Tree::read(self.from.path()), &Tree::read(self.to.path()));
    }
}

fn at(path: &str) -> Location {
    Location::new(0, path.as_bytes())
}

fn everything() -> Item {
    Item::Tree { directory: at("") }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 512) as u8 ^ (n as u8) ^ seed).collect()
}

#[test]
fn a_region_copies_the_blocks_that_differ() {
    let mut it = Pair::new();
    let mut bytes = pattern(9 << 20, 0);
    fs::write(it.source("f"), &bytes).expect("write");
    fs::write(it.target("f"), &bytes).expect("write");
    bytes[(5 << 20) + 3] ^= 1;
    fs::write(it.source("f"), &bytes).expect("write");
    let untouched = it.copy(&Item::Region { file: at("f"), index: 0 });
    assert_eq!((untouched.compared, untouched.copied), (4 << 20, 0));
    let touched = it.copy(&Item::Region { file: at("f"), index: 1 });
    assert_eq!((touched.compared, touched.copied), (4 << 20, 64 << 10));
    assert_eq!(it.link.written, 64 << 10);
    it.assert_equal();
}

#[test]
fn holes_stay_holes() {
    let mut it = Pair::new();
    let file = fs::File::create(it.source("f")).expect("create");
    file.set_len(40 << 20).expect("set_len");
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (40 << 20) - 3).expect("write");
    let tally = it.copy(&Item::Entries { directory: at("") });
    assert!(tally.copied <= 64 << 10, "{tally:?}");
    let blocks = fs::metadata(it.target("f")).expect("stat").blocks();
    assert!(blocks <= 512, "{blocks} blocks of 512 bytes");
    it.assert_equal();
}

#[test]
fn a_longer_and_a_shorter_file_become_equal() {
    let mut it = Pair::new();
    for (own, other) in [(100, 300_000), (300_000, 100), (200_000, 200_001), (5_000_000, 0)] {
        fs::write(it.source("f"), pattern(own, 1)).expect("write");
        fs::write(it.target("f"), pattern(other, 1)).expect("write");
        it.copy(&Item::File { file: at("f") });
        it.assert_equal();
    }
}

#[test]
fn a_missing_directory_comes_with_everything_in_it() {
    let mut it = Pair::new();
    fs::create_dir_all(it.source("a/b/c")).expect("mkdir");
    fs::write(it.source("a/b/c/f"), pattern(100_000, 2)).expect("write");
    symlink("f", it.source("a/b/c/s")).expect("symlink");
    fs::set_permissions(it.source("a/b"), fs::Permissions::from_mode(0o1711)).expect("chmod");
    it.copy(&Item::Region { file: at("a/b/c/f"), index: 0 });
    it.assert_equal();
}

#[test]
fn entries_of_other_kinds_are_replaced_and_surplus_ones_removed() {
    let mut it = Pair::new();
    fs::create_dir_all(it.target("x/deep")).expect("mkdir");
    fs::write(it.target("x/deep/f"), b"old").expect("write");
    fs::write(it.target("surplus"), b"old").expect("write");
    fs::write(it.source("x"), b"new").expect("write");
    symlink("x", it.source("y")).expect("symlink");
    fs::create_dir(it.target("y")).expect("mkdir");
    it.copy(&Item::Entries { directory: at("") });
    it.assert_equal();
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let mut it = Pair::new();
    fs::create_dir(it.source("d")).expect("mkdir");
    fs::write(it.source("d/a"), pattern(100_000, 3)).expect("write");
    fs::hard_link(it.source("d/a"), it.source("b")).expect("link");
    fs::write(it.source("c"), b"own").expect("write");
    // On the target other names belong together.
    fs::write(it.target("b"), b"x").expect("write");
    fs::hard_link(it.target("b"), it.target("c")).expect("link");
    it.copy(&everything());
    it.assert_equal();
    let inode = |path| fs::metadata(it.target(path)).expect("stat").ino();
    assert_eq!(inode("d/a"), inode("b"));
    assert_ne!(inode("c"), inode("b"));
}

#[test]
fn a_renamed_directory_is_renamed_rather_than_copied() {
    let mut it = Pair::new();
    for root in [it.source("new"), it.target("old")] {
        fs::create_dir(&root).expect("mkdir");
        fs::write(root.join("big"), pattern(2 << 20, 4)).expect("write");
    }
    it.link.send(&Step::Renamed { from: at("old"), to: at("new") }, &[]).expect("sent");
    it.copy(&Item::Entries { directory: at("") });
    let tally = it.copy(&Item::Tree { directory: at("new") });
    assert_eq!((tally.copied, it.link.written), (0, 0));
    it.assert_equal();
}

#[test]
fn a_large_directory_is_listed_in_several_steps() {
    let mut it = Pair::new();
    for n in 0..3000 {
        let name = format!("file-with-a-longer-name-{n:05}");
        if n % 3 != 0 {
            fs::write(it.source(&name), name.as_bytes()).expect("write");
        }
        if n % 4 != 0 {
            fs::write(it.target(&name), name.as_bytes()).expect("write");
        }
    }
    it.copy(&Item::Entries { directory: at("") });
    assert!(it.link.asked > 2, "{} steps", it.link.asked);
    it.assert_equal();
}

#[test]
fn extended_attributes_become_equal() {
    let mut it = Pair::new();
    fs::write(it.source("f"), b"same").expect("write");
    fs::write(it.target("f"), b"same").expect("write");
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("setxattr");
    };
    set(&it.source("f"), "user.one", b"1");
    set(&it.source("f"), "user.large", &[7; 2000]);
    set(&it.target("f"), "user.two", b"2");
    set(it.from.path(), "user.root", b"r");
    it.copy(&Item::Attributes { at: at("f") });
    it.copy(&Item::Attributes { at: at("") });
    it.assert_equal();
}

#[test]
fn what_differs_is_kept_aside_once() {
    let mut it = Pair::new();
    let generation =
        Generation { number: 3, creator: NodeId(1), nonce: 0xabcd, origin: Origin::Forced };
    it.link.fixer = Fixer::new(Some(Aside::new(generation)));
    fs::create_dir_all(it.target("gone/deep")).expect("mkdir");
    fs::write(it.target("gone/deep/f"), b"only here").expect("write");
    fs::write(it.target("small"), b"theirs").expect("write");
    fs::write(it.source("small"), b"ours").expect("write");
    let mut bytes = pattern(200_000, 5);
    fs::write(it.target("large"), &bytes).expect("write");
    let theirs = bytes.clone();
    bytes[70_000] ^= 1;
    bytes[150_000] ^= 1;
    fs::write(it.source("large"), &bytes).expect("write");
    it.copy(&everything());
    it.assert_equal();
    let kept = it.target(".havre/diverged").join(generation.to_string());
    assert_eq!(fs::read(kept.join("gone/deep/f")).expect("kept"), b"only here");
    assert_eq!(fs::read(kept.join("small")).expect("kept"), b"theirs");
    assert!(fs::read(kept.join("large")).expect("kept") == theirs);
    assert_eq!(it.link.fixer.kept(), 3);
}

#[test]
fn the_walk_names_every_directory_and_large_files_regions() {
    let it = Pair::new();
    fs::create_dir_all(it.source("a/b")).expect("mkdir");
    fs::create_dir_all(it.source(".havre/x")).expect("mkdir");
    fs::File::create(it.source("a/big")).expect("create").set_len(9 << 20).expect("set_len");
    let mut places = places(it.from.path());
    let mut walk = Walk::new(&places);
    let mut items = Vec::new();
    loop {
        let some = walk.next(&mut places, 2).expect("walks");
        assert!(some.len() <= 2);
        if some.is_empty() {
            break;
        }
        items.extend(some);
    }
    items.sort();
    let region = |index| Item::Region { file: at("a/big"), index };
    let entries = |directory| Item::Entries { directory: at(directory) };
    assert_eq!(
        items,
        [
            region(1),
            region(2),
            Item::Attributes { at: at("") },
            entries(""),
            entries("a"),
            entries("a/b"),
        ]
    );
}

#[test]
fn names_of_one_file_stay_together_whatever_is_there_already() {
    for there in [&[][..], &["a"], &["b"], &["a", "b"]] {
        let mut it = Pair::new();
        fs::write(it.source("a"), b"").expect("write");
        fs::hard_link(it.source("a"), it.source("b")).expect("link");
        for name in there {
            fs::write(it.target(name), b"x").expect("write");
        }
        it.copy(&everything());
        it.copy(&Item::Attributes { at: at("") });
        it.assert_equal();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_two_trees_become_equal(
        own in crate::volume::testkit::random_tree(),
        other in crate::volume::testkit::random_tree(),
    ) {
        let mut it = Pair::new();
        own.make(it.from.path());
        other.make(it.to.path());
        it.copy(&everything());
        it.copy(&Item::Attributes { at: at("") });
        it.assert_equal();
        let again = it.copy(&everything());
        prop_assert_eq!(again.copied, 0, "nothing differs any more");
    }
}
