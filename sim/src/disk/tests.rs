//! What the simulated disk keeps and loses, by example.

use super::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(seed, 0, DiskTiming::default())
}

#[track_caller]
fn run(disk: &mut SimDisk, op: DiskOp) -> DiskDone {
    let submitted = disk.submit(SimTime::ZERO, op);
    disk.complete(submitted.ticket).expect("nothing crashed in between")
}

#[test]
fn a_flushed_write_survives_a_power_cut() {
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        run(&mut disk, DiskOp::Flush);
        disk.power_cut();
        assert_eq!(disk.peek(3).tag(), Some(7));
    }
}

#[test]
fn an_unsynced_write_is_lost_or_kept_or_torn() {
    let mut seen = [false; 3];
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        disk.power_cut();
        match disk.peek(3).tag() {
            Some(0) => seen[0] = true,
            Some(7) => seen[1] = true,
            None => seen[2] = true,
            Some(other) => panic!("seed {seed}: {other} was never written"),
        }
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn unsynced_writes_reach_the_medium_in_any_order() {
    let mut later_without_earlier = false;
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(1, Block::whole(7)));
        run(&mut disk, DiskOp::Write(2, Block::whole(8)));
        disk.power_cut();
        later_without_earlier |= disk.peek(1).tag() == Some(0) && disk.peek(2).tag() == Some(8);
    }
    assert!(later_without_earlier);
}

#[test]
fn a_power_cut_inside_a_write_may_tear_it() {
    let mut torn = false;
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        run(&mut disk, DiskOp::Flush);
        let in_flight = disk.submit(SimTime::ZERO, DiskOp::Write(3, Block::whole(8)));
        assert_eq!(disk.power_cut().in_flight, 1);
        assert_eq!(disk.complete(in_flight.ticket), None);
        let sectors = disk.peek(3).0;
        assert!(sectors.iter().all(|s| *s == 7 || *s == 8));
        torn |= sectors.contains(&7) && sectors.contains(&8);
    }
    assert!(torn);
}

#[test]
fn a_flush_covers_only_writes_that_were_complete_when_it_was_submitted() {
    let mut lost = false;
    for seed in 0..200 {
        let mut disk = disk(seed);
        let write = disk.submit(SimTime::ZERO, DiskOp::Write(3, Block::whole(7)));
        let flush = disk.submit(SimTime::ZERO, DiskOp::Flush);
        disk.complete(write.ticket);
        disk.complete(flush.ticket);
        disk.power_cut();
        lost |= disk.peek(3).tag() != Some(7);
    }
    assert!(lost);
}

#[test]
fn a_failed_flush_is_not_repaired_by_the_next_one() {
    let mut lost = false;
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        disk.faults.flush_error_ppm = 1_000_000;
        assert_eq!(run(&mut disk, DiskOp::Flush), DiskDone::Failed(DiskError::Io));
        disk.faults.flush_error_ppm = 0;
        assert_eq!(run(&mut disk, DiskOp::Flush), DiskDone::Ok);
        assert_eq!(disk.peek(3).tag(), Some(7));
        disk.power_cut();
        lost |= disk.peek(3).tag() != Some(7);
    }
    assert!(lost);
}

#[test]
fn a_forgotten_write_does_not_come_back_over_a_later_durable_one() {
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        disk.faults.flush_error_ppm = 1_000_000;
        run(&mut disk, DiskOp::Flush);
        disk.faults = DiskFaults::default();
        run(&mut disk, DiskOp::Write(3, Block::whole(8)));
        run(&mut disk, DiskOp::Flush);
        disk.power_cut();
        assert_eq!(disk.peek(3).tag(), Some(8), "seed {seed}");
    }
}

#[test]
fn a_crash_of_the_process_keeps_what_was_complete() {
    for seed in 0..50 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::Write(3, Block::whole(7)));
        disk.process_crash();
        assert_eq!(disk.peek(3).tag(), Some(7));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_still_reads_and_flushes() {
    let mut disk = disk(1);
    run(&mut disk, DiskOp::Write(3, Block::whole(7)));
    disk.faults.full = true;
    assert_eq!(
        run(&mut disk, DiskOp::Write(3, Block::whole(8))),
        DiskDone::Failed(DiskError::Full)
    );
    assert_eq!(run(&mut disk, DiskOp::Read(3)), DiskDone::Block(Block::whole(7)));
    assert_eq!(run(&mut disk, DiskOp::Flush), DiskDone::Ok);
    assert_eq!(disk.hits.full, 1);
}

#[test]
fn writes_to_one_block_do_not_overtake_each_other() {
    for seed in 0..200 {
        let mut disk = disk(seed);
        let first = disk.submit(SimTime::ZERO, DiskOp::Write(3, Block::whole(7)));
        let second = disk.submit(SimTime::ZERO, DiskOp::Write(3, Block::whole(8)));
        assert!(first.ready <= second.ready);
    }
}

#[test]
fn a_saved_file_is_old_or_new_after_a_power_cut_at_any_step() {
    for seed in 0..100 {
        for steps in 0..=4 {
            let mut disk = disk(seed);
            let mut job = records::SaveJob::new("m1".into(), b"old".to_vec());
            while let Some(op) = job.next_op() {
                run(&mut disk, op);
            }
            let mut job = records::SaveJob::new("m1".into(), b"newer".to_vec());
            for _ in 0..steps {
                run(&mut disk, job.next_op().expect("a job has four steps"));
            }
            if let Some(op) = job.next_op() {
                disk.submit(SimTime::ZERO, op);
            }
            disk.power_cut();
            let left = disk.peek_file("m1").map(<[u8]>::to_vec);
            let new = left.as_deref() == Some(b"newer");
            assert!(new || left.as_deref() == Some(b"old"), "seed {seed}: {left:?}");
            assert!(new || steps < 4, "seed {seed}: a finished save was lost");
        }
    }
}

#[test]
fn a_rename_without_a_sync_before_it_may_show_torn_content() {
    let mut torn = false;
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, DiskOp::WriteFile("m1.new".into(), b"newer".to_vec()));
        run(&mut disk, DiskOp::Rename("m1.new".into(), "m1".into()));
        run(&mut disk, DiskOp::SyncNames);
        disk.power_cut();
        torn |= disk.peek_file("m1").is_some_and(|bytes| bytes != b"newer");
    }
    assert!(torn);
}

#[test]
fn a_misdirected_write_leaves_its_target_alone_and_spoils_the_neighbour() {
    let mut disk = disk(1);
    disk.faults.misdirect_ppm = 1_000_000;
    run(&mut disk, DiskOp::Write(4, Block::whole(7)));
    assert_eq!((disk.peek(4).tag(), disk.peek(5).tag()), (Some(0), Some(7)));
    assert_eq!(disk.hits.misdirected, 1);
}

#[test]
fn rot_lasts() {
    let mut disk = disk(1);
    run(&mut disk, DiskOp::Write(4, Block::whole(7)));
    run(&mut disk, DiskOp::Flush);
    disk.rot(4, 5);
    disk.power_cut();
    assert_eq!(disk.peek(4).tag(), None);
}
