//! Random operations with crashes at random points.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use havre_core::{
    config::module::{Contract, WriteMode},
    effect::VolumeRequest,
};

use super::{Pair, needs_root, pattern};

/// Numbers that look random, from a seed that a failing run prints.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// One random operation somewhere in a small tree; impossible ones fail, as in life.
fn random_operation(root: &Path, dice: &mut Dice) {
    let name = |dice: &mut Dice| {
        let mut path = root.to_owned();
        for _ in 0..=dice.below(2) {
            path.push(["a", "b", "c", "d"][dice.below(4)]);
        }
        path
    };
    let path = name(dice);
    let other = name(dice);
    let regular = fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_file());
    match dice.below(16) {
        0 | 1 => drop(fs::create_dir(&path)),
        2 | 3 if regular || !path.exists() => {
            let _ = fs::write(&path, pattern(dice.below(200_000), dice.below(256) as u8));
        }
        4..=6 if regular => {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let offset = dice.below(10 << 20) as u64;
                let _ = file.write_all_at(&pattern(1 + dice.below(9000), 9), offset);
                if dice.below(3) == 0 {
                    let _ = file.sync_data();
                }
            }
        }
        7 if regular => {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let _ = file.set_len(dice.below(6 << 20) as u64);
            }
        }
        8 | 9 => drop(fs::rename(&path, &other)),
        10 => drop(fs::hard_link(&path, &other)),
        11 => drop(fs::remove_file(&path)),
        12 => drop(fs::remove_dir_all(&path)),
        13 => drop(symlink("a", &path)),
        14 if regular => {
            let mode = 0o600 + dice.below(64) as u32;
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        }
        15 if regular => {
            let value = [dice.below(256) as u8; 20];
            let flags = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::setxattr(&path, "user.random", &value, flags);
        }
        _ => {}
    }
}

fn torment(seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let contract = [Contract::Received, Contract::Durable][dice.below(2)];
    let write = [WriteMode::Back, WriteMode::Through][dice.below(2)];
    let mut pair = Pair::running(contract, write);
    for _ in 0..4 {
        let root = pair.source.dir.clone();
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
        match dice.below(3) {
            // The target dies.
            0 => {
                pair.target.crash();
                pair.source.wait_lost();
                pair.solo();
            }
            // The source's daemon dies.
            1 => {
                pair.source.crash();
                pair.source.boot();
                pair.generation += 1;
                pair.serve();
                pair.target.ask_ok(VolumeRequest::Close { clean: false });
            }
            // Both die.
            _ => {
                pair.source.crash();
                pair.target.crash();
                pair.source.boot();
                pair.generation += 1;
                pair.serve();
            }
        }
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
        pair.admit(false);
        pair.follow();
        // While it is resynchronised.
        for _ in 0..dice.below(30) {
            random_operation(&root, &mut dice);
        }
        pair.in_sync();
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
    }
    pair.assert_equal_at_the_end();
}

#[test]
fn random_operations_with_crashes_at_random_points_end_in_equal_trees() {
    if needs_root() {
        return;
    }
    let base = std::env::var("HAVRE_SEED").ok().and_then(|seed| seed.parse().ok());
    match base {
        Some(seed) => torment(seed),
        None => (1..=6).for_each(torment),
    }
}
