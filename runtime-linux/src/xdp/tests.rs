//! The program in the kernel.

use super::*;

#[test]
fn the_kernel_accepts_the_program() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let state = tempfile::tempdir().expect("a temporary directory");
    let dir = bpffs::mount(state.path()).expect("root may mount");
    let filter = Filter::open("lo", 1, &dir);
    let done = filter.map(|_| ());
    bpffs::unmount(state.path()).expect("unmounts");
    done.expect("the filter loads");
}
