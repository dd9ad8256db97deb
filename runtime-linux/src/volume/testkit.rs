//! Trees of files for tests: read, compared, made at random.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use proptest::prelude::*;

/// All that two equal trees have in common: what is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<PathBuf, Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    /// Of files only.
    modified: Option<(i64, i64)>,
    content: Option<blake3::Hash>,
    size: u64,
    link: Option<PathBuf>,
    device: u64,
    xattrs: Vec<u8>,
    /// The first of the names that the file has in this tree.
    first_name: PathBuf,
}

impl Tree {
    /// Reads a tree, without what is never replicated.
    #[track_caller]
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut names = HashMap::new();
        tree.visit(root, Path::new(""), &mut names);
        tree
    }

    fn visit(&mut self, root: &Path, at: &Path, names: &mut HashMap<u64, PathBuf>) {
        let path = root.join(at);
        let stat = fs::symlink_metadata(&path).expect("stat");
        let kind = stat.file_type();
        let first_name = if kind.is_dir() {
            at.to_owned()
        } else {
            names.entry(stat.ino()).or_insert_with(|| at.to_owned()).clone()
        };
        let dir = fs::File::open(root).expect("open");
        let name = if at.as_os_str().is_empty() { &b"."[..] } else { at.as_os_str().as_bytes() };
        let xattrs = super::resync::testing_xattrs(&dir, name);
        self.entries.insert(
            at.to_owned(),
            Node {
                mode: if kind.is_symlink() { 0 } else { stat.mode() },
                owner: (stat.uid(), stat.gid()),
                modified: kind.is_file().then(|| (stat.mtime(), stat.mtime_nsec())),
                content: kind.is_file().then(|| blake3::hash(&fs::read(&path).expect("read"))),
                size: if kind.is_file() { stat.size() } else { 0 },
                link: kind.is_symlink().then(|| fs::read_link(&path).expect("readlink")),
                device: stat.rdev(),
                xattrs,
                first_name,
            },
        );
        if kind.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path)
                .expect("readdir")
                .map(|entry| entry.expect("entry").file_name())
                .collect();
            entries.sort();
            for name in entries {
                let hidden =
                    at.as_os_str().is_empty() && (name == ".havre" || name == "lost+found");
                if !hidden {
                    self.visit(root, &at.join(name), names);
                }
            }
        }
    }
}

/// Fails with the first differences.
#[track_caller]
pub(crate) fn assert_equal(a: &Tree, b: &Tree) {
    let mut differences = Vec::new();
    for path in a.entries.keys().chain(b.entries.keys()) {
        let (one, other) = (a.entries.get(path), b.entries.get(path));
        if one != other {
            differences.push(format!("{}:\n  {one:?}\n  {other:?}", path.display()));
        }
    }
    differences.dedup();
    differences.truncate(5);
    assert!(differences.is_empty(), "the trees differ:\n{}", differences.join("\n"));
}

/// A recipe of a small tree.
#[derive(Debug, Clone)]
pub(crate) struct Recipe(Vec<(Vec<u8>, Part)>);

#[derive(Debug, Clone)]
enum Part {
    File { len: usize, seed: u8, mode: u32 },
    Directory { mode: u32 },
    Symlink(String),
    Fifo,
    LinkTo(usize),
    Xattr(Vec<u8>),
}

fn part() -> impl Strategy<Value = Part> {
    let len = prop_oneof![Just(0usize), 1usize..100, 60_000usize..200_000];
    prop_oneof![
        4 => (len, 0u8..3, prop::sample::select(vec![0o600u32, 0o4755, 0o444]))
            .prop_map(|(len, seed, mode)| Part::File { len, seed, mode }),
        2 => prop::sample::select(vec![0o755u32, 0o1777, 0o2700])
            .prop_map(|mode| Part::Directory { mode }),
        1 => "[a-c]{1,3}".prop_map(Part::Symlink),
        1 => Just(Part::Fifo),
        1 => (0usize..8).prop_map(Part::LinkTo),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Part::Xattr),
    ]
}

/// Recipes whose paths collide often.
pub(crate) fn random_tree() -> impl Strategy<Value = Recipe> {
    let path = prop::collection::vec(b'a'..b'd', 1..4);
    prop::collection::vec((path, part()), 0..14).prop_map(Recipe)
}

impl Recipe {
    /// Makes the tree in an empty directory; parts that are impossible are left out.
    pub(crate) fn make(&self, root: &Path) {
        let place = |path: &[u8]| {
            path.iter().fold(root.to_owned(), |at, byte| at.join(char::from(*byte).to_string()))
        };
        for (path, part) in &self.0 {
            let path = place(path);
            let _ = fs::create_dir_all(path.parent().expect("below the root"));
            match part {
                Part::File { len, seed, mode } => {
                    let bytes: Vec<u8> = (0..*len).map(|n| (n / 7) as u8 ^ seed).collect();
                    // Writing to a named pipe would wait for a reader.
                    let fifo = fs::metadata(&path).is_ok_and(|stat| !stat.is_file());
                    if !fifo && fs::write(&path, bytes).is_ok() {
                        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(*mode));
                    }
                }
                Part::Directory { mode } => {
                    if fs::create_dir(&path).is_ok() {
                        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(*mode));
                    }
                }
                Part::Symlink(target) => {
                    let _ = symlink(target, &path);
                }
                Part::Fifo => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o640);
                    let _ = rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode);
                }
                Part::LinkTo(index) => {
                    if let Some((from, _)) = self.0.get(*index) {
                        let from = place(from);
                        if fs::symlink_metadata(&from).is_ok_and(|stat| stat.is_file()) {
                            let _ = fs::hard_link(from, &path);
                        }
                    }
                }
                Part::Xattr(value) => {
                    let flags = rustix::fs::XattrFlags::empty();
                    if fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_file() || stat.is_dir())
                    {
                        let _ = rustix::fs::setxattr(&path, "user.x", value, flags);
                    }
                }
            }
        }
    }
}
