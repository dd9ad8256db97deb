//! Tests of the change record's encoding.

use proptest::prelude::*;

use super::*;

fn encoded(change: &Change) -> Vec<u8> {
    let mut out = Vec::new();
    change.encode(&mut out);
    out
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8..=255, 1..12).prop_map(|mut bytes| {
        for byte in &mut bytes {
            if *byte == b'/' || *byte == b'.' {
                *byte = b'x';
            }
        }
        bytes
    })
}

fn location() -> impl Strategy<Value = Location> {
    (any::<u8>(), proptest::collection::vec(name(), 1..4))
        .prop_map(|(root, parts)| Location::new(root, parts.join(&b'/')))
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![location().prop_map(Target::Path), id().prop_map(Target::Id)]
}

fn id() -> impl Strategy<Value = FileId> {
    any::<u64>().prop_map(FileId)
}

fn access() -> impl Strategy<Value = Access> {
    (0u16..=0o7777, any::<u32>(), any::<u32>()).prop_map(|(mode, uid, gid)| Access {
        mode,
        uid,
        gid,
    })
}

fn time() -> impl Strategy<Value = FileTime> {
    (any::<i64>(), 0u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| FileTime { seconds, nanoseconds })
}

fn allocate_mode() -> impl Strategy<Value = AllocateMode> {
    prop_oneof![
        Just(AllocateMode::Reserve),
        Just(AllocateMode::ReserveKeepSize),
        Just(AllocateMode::PunchHole),
        Just(AllocateMode::ZeroRange),
        Just(AllocateMode::ZeroRangeKeepSize),
    ]
}

fn change_of_data() -> impl Strategy<Value = Change> {
    const OFFSET_MAX: u64 = 1 << 62;
    prop_oneof![
        (id(), location()).prop_map(|(id, location)| Change::Open { id, location }),
        id().prop_map(|id| Change::Close { id }),
        (id(), 0..OFFSET_MAX, 0..=PAYLOAD_BYTES_MAX).prop_map(|(id, offset, len)| Change::Write {
            id,
            offset,
            len
        }),
        (id(), 0..OFFSET_MAX).prop_map(|(id, size)| Change::Truncate { id, size }),
        (id(), allocate_mode(), 0..OFFSET_MAX, 1..OFFSET_MAX)
            .prop_map(|(id, mode, offset, len)| Change::Allocate { id, mode, offset, len }),
        (id(), 0..OFFSET_MAX, id(), 0..OFFSET_MAX, 0..OFFSET_MAX).prop_map(
            |(from, from_offset, to, to_offset, len)| Change::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len
            }
        ),
        proptest::option::of(target()).prop_map(|target| Change::Sync { target }),
    ]
}

fn change_of_names() -> impl Strategy<Value = Change> {
    prop_oneof![
        (location(), id(), access()).prop_map(|(location, id, access)| Change::Create {
            location,
            id,
            access
        }),
        (location(), id(), access()).prop_map(|(directory, id, access)| Change::Temporary {
            directory,
            id,
            access
        }),
        (id(), location()).prop_map(|(id, location)| Change::LinkOpen { id, location }),
        (location(), access())
            .prop_map(|(location, access)| Change::MakeDirectory { location, access }),
        (location(), any::<u32>(), access()).prop_map(|(location, rdev, access)| {
            Change::MakeNode { location, kind: NodeKind::BlockDevice(rdev), access }
        }),
        (location(), name(), any::<u32>(), any::<u32>()).prop_map(
            |(location, target, uid, gid)| Change::Symlink { location, target, uid, gid }
        ),
        location().prop_map(|location| Change::Unlink { location }),
        location().prop_map(|location| Change::RemoveDirectory { location }),
        (location(), location()).prop_map(|(from, to)| Change::Rename {
            from,
            to,
            mode: RenameMode::Exchange
        }),
        (location(), location()).prop_map(|(from, to)| Change::Link { from, to }),
    ]
}

fn change_of_attributes() -> impl Strategy<Value = Change> {
    prop_oneof![
        (target(), 0u16..=0o7777).prop_map(|(target, mode)| Change::SetMode { target, mode }),
        (target(), any::<Option<u32>>(), any::<Option<u32>>())
            .prop_map(|(target, uid, gid)| Change::SetOwner { target, uid, gid }),
        (target(), proptest::option::of(time()), proptest::option::of(time())).prop_map(
            |(target, accessed, modified)| Change::SetTimes { target, accessed, modified }
        ),
        (target(), name(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(target, name, value)| Change::SetXattr { target, name, value }),
        (target(), name()).prop_map(|(target, name)| Change::RemoveXattr { target, name }),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![change_of_data(), change_of_names(), change_of_attributes()]
}

proptest! {
    #[test]
    fn every_change_survives_the_round_trip(change in change(), tail in any::<[u8; 3]>()) {
        let mut bytes = encoded(&change);
        let len = bytes.len();
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(Change::decode(&bytes), Ok((change, len)));
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((change, len)) = Change::decode(&bytes) {
            prop_assert!(len <= bytes.len());
            let bytes = encoded(&change);
            prop_assert_eq!(Change::decode(&bytes), Ok((change.clone(), bytes.len())));
        }
    }

    #[test]
    fn a_change_cut_short_is_refused(change in change(), cut in any::<proptest::sample::Index>()) {
        let bytes = encoded(&change);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(Change::decode(&bytes[..cut]), Err(RecordError::Malformed));
    }

    #[test]
    fn split_undoes_join(directory in location(), entry in name()) {
        let joined = directory.join(&entry);
        prop_assert_eq!(joined.split(), Some((directory, &entry[..])));
    }
}

#[test]
fn the_encoding_of_version_1_stays_the_same() {
    let location = Location::new(1, "a/b");
    let access = Access { mode: 0o644, uid: 1000, gid: 7 };
    let cases: [(Change, &[u8]); 5] = [
        (
            Change::Write { id: FileId(5), offset: 4096, len: 300 },
            &[2, 5, 251, 0x00, 0x10, 251, 0x2c, 0x01],
        ),
        (
            Change::Create { location: location.clone(), id: FileId(9), access },
            &[6, 1, 3, b'a', b'/', b'b', 9, 251, 0xa4, 0x01, 251, 0xe8, 0x03, 7],
        ),
        (
            Change::Rename {
                from: location.clone(),
                to: Location::new(1, "c"),
                mode: RenameMode::NoReplace,
            },
            &[14, 1, 3, b'a', b'/', b'b', 1, 1, b'c', 1],
        ),
        (
            Change::SetTimes {
                target: Target::Path(location),
                accessed: None,
                modified: Some(FileTime { seconds: -1, nanoseconds: 10 }),
            },
            &[18, 0, 1, 3, b'a', b'/', b'b', 0, 1, 1, 10],
        ),
        (Change::Sync { target: Some(Target::Id(FileId(3))) }, &[21, 1, 1, 3]),
    ];
    for (change, golden) in cases {
        assert_eq!(encoded(&change), golden, "{change:?}");
    }
}

#[test]
fn a_path_that_leads_out_of_the_directory_is_refused() {
    for path in ["..", "a/../b", "/etc/passwd", "a//b", "a/", ".", "a/./b", "a\0b"] {
        let change = Change::Unlink { location: Location::new(0, path) };
        let result = Change::decode(&encoded(&change));
        assert!(matches!(result, Err(RecordError::Path { .. })), "{path}: {result:?}");
    }
}

#[test]
fn a_name_or_path_beyond_the_limits_of_linux_is_refused() {
    let long_name = vec![b'n'; NAME_BYTES_MAX + 1];
    let long_path = [b"nnnn".as_slice(); PATH_BYTES_MAX / 4].join(&b'/');
    for path in [long_name, long_path] {
        let change = Change::Unlink { location: Location::new(0, path) };
        assert!(matches!(Change::decode(&encoded(&change)), Err(RecordError::Path { .. })));
    }
}

#[test]
fn the_directory_itself_takes_attributes_but_cannot_be_removed() {
    let root = Location::new(0, "");
    let mode = Change::SetMode { target: Target::Path(root.clone()), mode: 0o700 };
    assert!(Change::decode(&encoded(&mode)).is_ok());
    let remove = Change::RemoveDirectory { location: root };
    assert_eq!(Change::decode(&encoded(&remove)), Err(RecordError::Range { field: "location" }));
}

#[test]
fn numbers_out_of_range_are_refused() {
    let id = FileId(1);
    let bad = [
        Change::Write { id, offset: u64::MAX, len: 1 },
        Change::Write { id, offset: 0, len: PAYLOAD_BYTES_MAX + 1 },
        Change::Truncate { id, size: 1 << 63 },
        Change::Allocate { id, mode: AllocateMode::PunchHole, offset: 0, len: 0 },
        Change::SetMode { target: Target::Id(id), mode: 0o10000 },
        Change::SetTimes {
            target: Target::Id(id),
            accessed: Some(FileTime { seconds: 0, nanoseconds: 1_000_000_000 }),
            modified: None,
        },
    ];
    for change in bad {
        let result = Change::decode(&encoded(&change));
        assert!(matches!(result, Err(RecordError::Range { .. })), "{change:?}: {result:?}");
    }
}

#[test]
fn the_longest_change_fits_into_the_limit() {
    let path = [b"nnn".as_slice(); PATH_BYTES_MAX / 4].join(&b'/');
    let change = Change::SetXattr {
        target: Target::Path(Location::new(0, path)),
        name: vec![b'n'; NAME_BYTES_MAX],
        value: vec![7; XATTR_BYTES_MAX],
    };
    let bytes = encoded(&change);
    assert!(bytes.len() <= CHANGE_BYTES_MAX);
    assert_eq!(Change::decode(&bytes), Ok((change, bytes.len())));
}
