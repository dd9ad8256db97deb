//! Packages: what goes in comes out, and what must not come in does not.

use proptest::prelude::*;

use super::*;

const XML: &[u8] = b"<safe/>";

/// An archive of such entries: name, content, Unix mode.
fn archive(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes, mode) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).expect("starts");
        writer.write_all(bytes).expect("writes");
    }
    writer.finish().expect("finishes").into_inner()
}

fn read(entries: &[(&str, &[u8], u32)]) -> Result<Package, PackageError> {
    Package::read(&archive(entries))
}

#[test]
fn a_folder_survives_packing_and_unpacking_and_packs_to_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut package =
        read(&[(CONFIGURATION, XML, 0o644), ("bin/start_prim", b"#!/bin/sh\n", 0o644)])
            .expect("a package");
    assert!(package.files["bin/start_prim"].executable, "programs may run");
    let text = PackedFile { bytes: b"x".to_vec(), executable: false };
    package.files.insert("bin/sub/readme.txt".to_owned(), text);
    package.write_into(&dir.path().join("m")).expect("writes");
    let again = Package::of_folder(&dir.path().join("m")).expect("reads");
    assert_eq!(again, package);
    assert_eq!(again.to_zip().expect("packs"), package.to_zip().expect("packs"));
    let unpacked = Package::read(&again.to_zip().expect("packs")).expect("a package");
    assert_eq!(unpacked.files.len(), 3);
}

#[test]
fn layouts_of_other_products_are_understood() {
    let package = read(&[
        ("web/index.html", b"", 0o644),
        ("manifest.xml", b"", 0o644),
        ("conf/modulekey.p12", b"secret", 0o600),
        ("conf\\userconfig.xml", XML, 0),
        ("bin\\prestart.cmd", b"rem\r\n", 0),
    ])
    .expect("a package");
    let names: Vec<&str> = package.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["bin/prestart.cmd", "conf/userconfig.xml"]);
    assert_eq!(package.notices.len(), 3, "{:?}", package.notices);

    let around = read(&[("m/conf/userconfig.xml", XML, 0o644), ("m/bin/x", b"", 0o644)]);
    assert!(around.expect("a package").files.contains_key("bin/x"));
    let template = read(&[("conf/userconfig.xml.template", XML, 0o644)]).expect("a package");
    assert!(template.files.contains_key(CONFIGURATION));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let absurd = "a/".repeat(20);
    let long = "x".repeat(300);
    for name in [
        "../evil",
        "conf/../../evil",
        "/etc/passwd",
        "..\\evil",
        "C:\\evil",
        "a//b",
        "./a",
        "a\u{7}b",
        "a/./b",
        "con:stream",
        &absurd,
        &long,
    ] {
        let error = read(&[(CONFIGURATION, XML, 0o644), (name, b"", 0o644)]);
        let error = error.expect_err(name);
        let folder = name.ends_with('/');
        assert!(matches!(error, PackageError::Name(..)) || folder, "{name}: {error}");
    }
    let case = [(CONFIGURATION, XML, 0o644), ("bin/A", b"" as &[u8], 0o644), ("bin/a", b"", 0o644)];
    assert!(read(&case).expect_err("twice").to_string().contains("occurs twice"));
}

#[test]
fn links_are_refused() {
    let mut writer = ZipWriter::new(Cursor::new(archive(&[(CONFIGURATION, XML, 0o644)])));
    writer.add_symlink("bin", "/etc", SimpleFileOptions::default()).expect("adds");
    let bytes = writer.finish().expect("finishes").into_inner();
    assert!(matches!(Package::read(&bytes), Err(PackageError::Link(name)) if name == "bin"));
}

#[test]
fn a_bomb_is_refused_by_what_comes_out_of_it() {
    let zeros = vec![0; 1 << 20];
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for number in 0..=(UNPACKED_BYTES_MAX >> 20) {
        writer.start_file(format!("{number}"), SimpleFileOptions::default()).expect("starts");
        writer.write_all(&zeros).expect("writes");
    }
    let bytes = writer.finish().expect("finishes").into_inner();
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    assert!(matches!(Package::read(&bytes), Err(PackageError::TooLarge(_))));
    let many: Vec<String> = (0..=FILES_MAX).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &[u8], u32)> =
        many.iter().map(|n| (n.as_str(), b"" as &[u8], 0)).collect();
    assert!(matches!(read(&many), Err(PackageError::TooMany)));
}

#[test]
fn what_is_no_package_is_told_so() {
    assert!(matches!(Package::read(b"MZ not a zip"), Err(PackageError::Damaged(_))));
    let error = read(&[("readme", b"", 0o644)]).expect_err("no configuration").to_string();
    assert!(error.contains("no conf/userconfig.xml") && error.contains("readme"), "{error}");
    let mut cut = archive(&[(CONFIGURATION, &[7; 5_000], 0o644)]);
    cut[60] ^= 0xff;
    assert!(matches!(Package::read(&cut), Err(PackageError::Damaged(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_change_of_a_package_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let start = ("bin/start_prim", b"#!/bin/sh\n" as &[u8], 0o755);
        let good = archive(&[(CONFIGURATION, XML, 0o644), start]);
        let mut bytes = good.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(package) = Package::read(&bytes) {
            prop_assert!(package.files.keys().all(|path| fault_of_path(path).is_none()));
        }
        let _ = Package::read(&good[..cut.index(good.len())]);
    }
}
