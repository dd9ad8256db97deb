//! Tests of snapshots on a folder that looks like a node's.

use super::*;

fn node() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let files = [
        ("cluster/cluster.xml", "<cluster/>"),
        ("cluster/membership.json", "{\"private_key\":\"k\"}"),
        (
            "modules/db/conf/userconfig.xml",
            "<var name=\"DB_PASSWORD\" value=\"hunter2\"/><var name=\"PORT\" value=\"5432\"/>",
        ),
        ("modules/web/conf/userconfig.xml", "<safe/>"),
        ("active/db/bin/start_prim", "export PGPASSWORD='hunter2' PGUSER=app\n"),
        ("log/db.jsonl", "{\"text\":\"from 10.1.2.3\"}\n"),
        ("log/web.jsonl", "{}\n"),
        ("log/node.jsonl", "{}\n"),
        ("inputs.seed", "7\n"),
        ("inputs.journal", "bytes"),
    ];
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    dir
}

fn text<'a>(files: &'a BTreeMap<String, Vec<u8>>, name: &str) -> &'a str {
    std::str::from_utf8(files.get(name).unwrap_or_else(|| panic!("no {name}"))).expect("text")
}

#[test]
fn secrets_stay_at_home_and_passwords_are_masked() {
    let dir = node();
    let wanted = Wanted { journal: true, ..Wanted::default() };
    let files = collect(dir.path(), &wanted, vec![("state.json".to_owned(), b"{}".to_vec())]);
    assert!(!files.contains_key("cluster/membership.json"));
    let config = text(&files, "modules/db/conf/userconfig.xml");
    assert_eq!(
        config,
        "<var name=\"DB_PASSWORD\" value=\"***\"/><var name=\"PORT\" value=\"5432\"/>"
    );
    assert_eq!(text(&files, "active/db/bin/start_prim"), "export PGPASSWORD='***' PGUSER=app\n");
    assert_eq!(text(&files, "journal/inputs.journal"), "bytes");
    assert_eq!(text(&files, "state.json"), "{}");
}

#[test]
fn a_snapshot_of_one_module_leaves_the_others_out() {
    let dir = node();
    let wanted = Wanted { module: Some("db".to_owned()), ..Wanted::default() };
    let files = collect(dir.path(), &wanted, Vec::new());
    assert!(files.contains_key("log/db.jsonl") && files.contains_key("log/node.jsonl"));
    assert!(!files.contains_key("log/web.jsonl"));
    assert!(!files.contains_key("modules/web/conf/userconfig.xml"));
    assert!(!files.contains_key("journal/inputs.journal"));
}

#[test]
fn an_anonymous_snapshot_has_no_address_and_no_journal() {
    let dir = node();
    let wanted = Wanted { journal: true, anonymous: true, ..Wanted::default() };
    let files = collect(dir.path(), &wanted, Vec::new());
    assert_eq!(text(&files, "log/db.jsonl").find("10.1.2.3"), None);
    assert!(!files.keys().any(|name| name.starts_with("journal/")));
}

#[test]
fn the_same_name_or_address_is_replaced_by_the_same_word_everywhere() {
    let names = [("paris", "anon-node1"), ("paris-2", "anon-node2")];
    let names = names.map(|(name, other)| (name.to_owned(), other.to_owned()));
    let mut replacer = Replacer::with_names(names.into());
    let text = replacer.in_text(
        "paris-2 to paris: 10.0.0.1 and fd00::1, again 10.0.0.1; 00:1A:2b:00:00:09 root@site.org \
         2026-11-20 08:40:20.909224 127.0.0.1 version 1.2.3",
    );
    assert_eq!(
        text,
        "anon-node2 to anon-node1: anon-ip1 and anon-ip2, again anon-ip1; anon-mac1 anon-mail1 \
         2026-11-20 08:40:20.909224 127.0.0.1 version 1.2.3"
    );
}

#[test]
fn an_archive_holds_the_files_and_does_not_replace_another() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("node.zip");
    let files = BTreeMap::from([("a/b.txt".to_owned(), b"hello".to_vec())]);
    write(&path, &files).expect("written");
    let mut archive = zip::ZipArchive::new(fs::File::open(&path).expect("opens")).expect("a zip");
    let mut content = String::new();
    archive.by_name("a/b.txt").expect("is there").read_to_string(&mut content).expect("text");
    assert_eq!(content, "hello");
    let error = write(&path, &files).expect_err("is there already");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}
