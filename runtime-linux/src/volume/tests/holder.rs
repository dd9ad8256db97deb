//! The mounts outlive the daemon.

use std::{
    fs::{self, File},
    io::Write as _,
    time::Duration,
};

use havre_core::{
    config::module::{Contract, WriteMode},
    effect::VolumeRequest,
};
use tempfile::tempdir;

use super::{Pair, needs_root, pattern};

#[test]
fn an_application_sees_a_pause_when_the_sources_daemon_dies() {
    if needs_root() {
        return;
    }
    let socket_dir = tempdir().expect("tempdir");
    let socket = socket_dir.path().join("holder");
    let own = socket.clone();
    let holder = std::thread::spawn(move || crate::holder::run(&own));
    let client = loop {
        match crate::holder::HolderClient::connect(&socket) {
            Ok(client) => break client,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut pair = Pair::new(Contract::Received, WriteMode::Back);
    pair.source.settings.holder = Some(socket);
    pair.source.boot();
    pair.serve();
    pair.admit(false);
    pair.follow();
    pair.in_sync();
    let root = pair.source.dir.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let application = std::thread::spawn(move || {
        let mut file = File::create(root.join("log")).expect("create");
        let mut count = 0u32;
        while stopped.try_recv().is_err() {
            file.write_all(&count.to_le_bytes()).expect("write");
            file.sync_data().expect("fdatasync");
            fs::write(root.join(format!("f{}", count % 20)), pattern(3000, count as u8))
                .expect("write");
            count += 1;
        }
        file.sync_all().expect("fsync");
        count
    });
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        let (handle, _) = pair.source.running.take().expect("it runs");
        handle.die();
        std::thread::sleep(Duration::from_millis(50));
        pair.source.boot();
        pair.generation += 1;
        pair.serve();
        pair.target.ask_ok(VolumeRequest::Close { clean: false });
        pair.admit(false);
        pair.follow();
        pair.in_sync();
    }
    stop.send(()).expect("the application runs");
    let count = application.join().expect("no operation failed");
    let log = fs::read(pair.source.path("log")).expect("read");
    let expected: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
    assert!(log == expected, "every write once, in order");
    pair.assert_equal_at_the_end();
    client.stop().expect("the holder ends");
    holder.join().expect("no panic").expect("no error");
}
